#include "crash/scene.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iostream>
#include <set>
#include <thread>

#include "support/images.hpp"

namespace qmpbackup::test {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

std::atomic<int> faults{0};
std::atomic<int> gap_writes{0};

// A suite that did no harm, or compared nothing, should be seen.
class Figures : public testing::Environment {
  void TearDown() override {
    if (faults > 0 || KnownLevels::total_compared() > 0) {
      std::cout << fmt::format("crash suite: {} faults and {} guest writes injected, {} levels restored and compared\n",
                               faults.load(), gap_writes.load(), KnownLevels::total_compared());
    }
  }
};
[[maybe_unused]] const auto* const figures = testing::AddGlobalTestEnvironment(new Figures);

DiskSpec disk_of(const TempFolder& folder, const PoweredFolder* power, const SceneOptions& options) {
  DiskSpec spec{.id = Scene::disk,
                .image = (options.powered_disk ? power->path() : folder.path()) / "disk.img",
                .format = options.format,
                .style = options.style};
  if (options.reads_can_fail) {
    spec.file_node = fmt::format("driver=nbd,server.type=unix,server.path={}", (folder / "nbd").string());
  }
  make_image(spec.image, options.format, options.disk_bytes, options.image_options);
  if (options.reads_can_fail) {
    fs::resize_file(spec.image, fs::file_size(spec.image) + 4 * options.disk_bytes);  // cannot grow over NBD
  }
  return spec;
}

// Takes commands of that name, arguments of that name and enum values out of query-qmp-schema's reply.
void hide(json& schema, const std::set<std::string>& words) {
  const auto is_hidden = [&](const json& entry) {
    return words.contains(entry.is_string() ? entry.get<std::string>() : entry.value("name", ""));
  };
  const auto remove_from = [&](json& list) {
    list.erase(std::remove_if(list.begin(), list.end(), is_hidden), list.end());
  };
  remove_from(schema);
  for (json& entry : schema) {
    for (const char* key : {"members", "values"}) {
      if (entry.contains(key)) {
        remove_from(entry[key]);
      }
    }
  }
}

}  // namespace

std::string describe(const Point& point) {
  static constexpr const char* kMoments[] = {"before sending", "after sending", "at the answer to",
                                             "after the reply to"};
  return fmt::format("{} message {} ({})", kMoments[static_cast<int>(point.moment)], point.message, point.command);
}

bool is_clear_cut(const Point& point) {
  return point.command != "transaction" || point.moment != Moment::AfterSending;
}

std::map<std::string, std::string> files_in(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.is_regular_file() && entry.path().extension() != ".lock") {
      files[entry.path().filename().string()] = read_file(entry.path());
    }
  }
  return files;
}

std::uint64_t crash_seed() {
  static const std::uint64_t seed = [] {
    const char* given = std::getenv("QMPBACKUP_CRASH_SEED");
    const std::uint64_t value = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    std::cout << "QMPBACKUP_CRASH_SEED=" << value << "\n";
    return value;
  }();
  return seed;
}

bool all_rounds() {
  const char* rounds = std::getenv("QMPBACKUP_CRASH_ROUNDS");
  return rounds != nullptr && std::string(rounds) == "all";
}

std::string Scene::last_words() const {
  return fmt::format("\n{}", fmt::join(last_words_, ""));
}

int Scene::total_faults() {
  return faults;
}
void Scene::count_fault() {
  ++faults;
}

void Scene::count_gap_write() {
  ++gap_writes;
}

Scene::Scene(std::uint64_t seed, SceneOptions options)
    : options_(std::move(options)),
      temp_("/tmp"),
      tmpfs_(options_.tmpfs_bytes == 0 ? nullptr : std::make_unique<TmpfsFolder>(options_.tmpfs_bytes)),
      power_(options_.powered ? std::make_unique<PoweredFolder>(256 * MiB) : nullptr),
      vm_(temp_, {disk_of(temp_, power_.get(), options_)},
          {.extra_arguments = options_.extra_arguments,
           .start_paused = options_.start_paused,
           .binary = options_.binary}),
      proxy_(temp_ / "proxy", vm_.socket()),
      tool_socket_(temp_ / "qmp"),
      random_(seed) {
  fs::create_symlink(proxy_.path(), tool_socket_);
  if (options_.reads_can_fail) {
    nbdkit_ = std::make_unique<BackgroundProgram>(std::vector<std::string>{
        "nbdkit", "--foreground", "--filter=error", "--unix", temp_ / "nbd", "file", vm_.disk(disk).image, "error=EIO",
        "error-pread-rate=100%", fmt::format("error-pread-file={}", (temp_ / "fail").string())});
    while (!fs::exists(temp_ / "nbd")) {
      if (nbdkit_->finished_within(std::chrono::milliseconds(2))) {
        throw std::runtime_error("nbdkit ended: " + nbdkit_->err());
      }
    }
  }
  if (power_ && !power_->problem().empty()) {
    return;
  }
  vm_.start();
  new_chain();
  change_disk(20);
}

Scene::~Scene() {
  proxy_.clear();
}

void Scene::new_chain() {
  known_.forget_all();
  if (!folder_.empty()) {
    for (const auto& entry : fs::directory_iterator(folder_)) {
      fs::remove_all(entry.path());
    }
  }
  folder_ = tmpfs_ ? tmpfs_->path() : (power_ ? power_->path() : temp_.path()) / fmt::format("chain{}", ++chains_);
  fs::create_directories(folder_);
  if (power_) {
    power_->sync();
  }
  remove_bitmaps();
}

void Scene::remove_bitmaps() {
  for (const std::string& bitmap : vm_.our_bitmaps(disk)) {
    vm_.control().execute("block-dirty-bitmap-remove", {{"node", vm_.node_of(disk)}, {"name", bitmap}});
  }
}

std::vector<std::string> Scene::command(const std::vector<std::string>& arguments) const {
  std::vector<std::string> argv =
      tool("-socket", tool_socket_.string(), "-backupFile", base().string(), "-deviceToBackup",
           options_.style == DiskSpec::Style::Drive ? disk : "disk0-fmt");
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  return argv;
}

void Scene::install_hooks(Meddling given) {
  const auto meddling = given ? std::move(given) : [](const Point&) { return Verdict::Forward; };
  const auto point_of = [](int index, Moment moment, const json& message) {
    return Point{index, moment, message.value("execute", ""), message.value("arguments", json())};
  };
  proxy_.on_client_message([=, this](int index, const json& message) {
    const Point point = point_of(index, Moment::BeforeSending, message);
    const Verdict verdict = meddling(point);
    if (verdict == Verdict::Forward && point.command == "transaction") {
      remember_transaction(point.arguments);
    }
    return verdict;
  });
  proxy_.after_forward(
      [=](int index, const json& message) { return meddling(point_of(index, Moment::AfterSending, message)); });
  const auto at_reply = [=, this](int index, Moment moment) {
    if (index < 0) {
      return Verdict::Forward;  // the greeting
    }
    return meddling({index, moment, proxy_.commands().at(static_cast<std::size_t>(index))});
  };
  proxy_.on_reply([=, this](int index, json& reply) {
    if (!hidden_.empty() && index >= 0 && reply.contains("return") && reply["return"].is_array() &&
        proxy_.commands().at(static_cast<std::size_t>(index)) == "query-qmp-schema") {
      hide(reply["return"], hidden_);
    }
    return at_reply(index, Moment::Answered);
  });
  proxy_.after_reply([=](int index, json&) { return at_reply(index, Moment::AfterReply); });
}

ProgramResult Scene::backup(const std::vector<std::string>& arguments, Meddling meddling) {
  proxy_.arm();
  bitmaps_survived_ = true;
  install_hooks(std::move(meddling));
  tool_ = std::make_unique<BackgroundProgram>(command(arguments), RunOptions{.environment = environment_});
  if (const auto alarm = std::exchange(signal_after_, std::nullopt); alarm && !tool_->finished_within(alarm->first)) {
    count_fault();
    tool_->send_signal(alarm->second);
  }
  ProgramResult result = tool_->wait();
  proxy_.wait_until_idle();
  proxy_.clear();
  if (const std::string error = proxy_.hook_error(); !error.empty()) {
    throw std::runtime_error("while meddling: " + error);
  }
  constexpr std::size_t kRemembered = 3;
  last_words_.push_back(fmt::format("exit code {}: {}", result.exit_code, result.err));
  if (last_words_.size() > kRemembered) {
    last_words_.pop_front();
  }
  if (result.timed_out) {
    throw std::runtime_error("the tool did not end: " + result.err);
  }
  return result;
}

void Scene::remember_transaction(const json& arguments) {
  for (const json& action : arguments.at("actions")) {
    if (action.at("type") == "blockdev-backup") {
      known_.remember(action.at("data").at("job-id").get<std::string>(), content());  // named like the bitmap
    }
  }
}

Verdict Scene::kill_tool(const Point& point) {
  count_fault();
  tool_->send_signal(SIGKILL);
  if (!tool_->finished_within(std::chrono::seconds(30))) {
    throw std::runtime_error("the tool survived SIGKILL");
  }
  return point.moment == Moment::BeforeSending ? Verdict::Drop : Verdict::Forward;
}

Verdict Scene::end_qemu(int signal, bool socket_goes) {
  count_fault();
  if (socket_goes) {
    fs::remove(tool_socket_);
  }
  ::kill(vm_.pid(), signal);
  // QEMU 7.2 hangs or aborts at its end while an image is being created: it drains all nodes, and then waits for that
  // job.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (vm_.running() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  vm_.kill();
  bitmaps_survived_ = vm_.ended_by() == 0;
  last_words_.push_back(fmt::format("QEMU, ended by signal {}: {}", vm_.ended_by(), vm_.log()));
  return Verdict::Forward;
}

void Scene::start_again() {
  if (power_ && power_->is_off()) {
    power_->power_on();
  }
  if (!fs::is_symlink(tool_socket_)) {
    fs::create_symlink(proxy_.path(), tool_socket_);
  }
  if (!vm_.running()) {
    vm_.start();
  }
}

void Scene::resize(std::uint64_t size_bytes) {
  vm_.resize(disk, size_bytes);
  options_.disk_bytes = size_bytes;
}

void Scene::fail_reads(bool fail) {
  fail ? write_file(temp_ / "fail", "") : static_cast<void>(fs::remove(temp_ / "fail"));
}

std::uint64_t Scene::below(std::uint64_t limit) {
  return std::uniform_int_distribution<std::uint64_t>(0, limit - 1)(random_);
}

void Scene::change_disk(int count) {
  constexpr std::uint64_t kSector = 512;
  const std::uint64_t sectors = options_.disk_bytes / kSector;
  for (int i = 0; i < count; ++i) {
    const std::uint64_t length = 1 + below(std::min(std::uint64_t{1} << below(9), sectors));
    const std::uint64_t offset = below(sectors - length + 1);
    switch (below(6)) {
      case 0:
        vm_.write_zeroes(disk, offset * kSector, length * kSector);
        break;
      case 1:
        vm_.discard(disk, offset * kSector, length * kSector);
        break;
      default:
        vm_.write(disk, offset * kSector, length * kSector, static_cast<std::uint8_t>(1 + below(255)));
    }
  }
}

std::string Scene::content() {
  const fs::path copy = vm_.disk_content(disk);
  std::string bytes = read_file(copy);
  fs::remove(copy);
  return bytes;
}

}  // namespace qmpbackup::test
