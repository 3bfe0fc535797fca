// What the integration tests share: a folder with disks and backups, runs of the tool, a chain with its judge.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <regex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/images.hpp"
#include "support/oracle.hpp"
#include "support/program.hpp"
#include "support/qemu_vm.hpp"
#include "support/requirements.hpp"
#include "support/temp_folder.hpp"

namespace qmpbackup::test {

namespace fs = std::filesystem;
using nlohmann::json;
using Arguments = std::vector<std::string>;
using std::chrono::milliseconds;
using std::chrono::seconds;

inline constexpr std::uint64_t KiB = 1024;
inline constexpr std::uint64_t MiB = 1024 * KiB;
inline constexpr std::uint64_t GiB = 1024 * MiB;

// The tool's marks, which every bitmap begins with, cost at most so much in an incremental of a disk of 8 GiB.
inline constexpr std::uint64_t marks = 75 * 64 * KiB;

inline Arguments operator+(Arguments first, const Arguments& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

inline Arguments backup_command(const std::string& socket, const std::string& base, const std::string& device,
                                const Arguments& more = {}) {
  return tool("-socket", socket, "-backupFile", base, "-deviceToBackup", device) + more;
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// The objects of JSON Lines; a line that is none fails the test.
inline std::vector<json> json_lines(const std::string& text) {
  std::vector<json> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    lines.push_back(json::parse(line, nullptr, false));
    EXPECT_TRUE(lines.back().is_object()) << line;
  }
  return lines;
}

// The last JSON line, which is to be a summary.
inline json summary_of(const ProgramResult& run) {
  const auto lines = json_lines(run.out);
  if (lines.empty() || lines.back().value("message_type", "") != "summary") {
    throw std::runtime_error("no summary: " + run.out + run.err);
  }
  return lines.back();
}

// Names of the files in a folder that match, sorted.
inline std::vector<std::string> files_like(const fs::path& folder, const std::string& pattern) {
  std::vector<std::string> names;
  const std::regex expression(pattern);
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (const auto name = entry.path().filename().string(); std::regex_search(name, expression)) {
      names.push_back(name);
    }
  }
  std::ranges::sort(names);
  return names;
}

// Waits for something that comes by itself; throws std::runtime_error when it does not.
template <typename Condition>
void wait_until(const std::string& what, const Condition& condition, milliseconds patience = seconds(30)) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) {
      throw std::runtime_error("waited in vain for " + what);
    }
    std::this_thread::sleep_for(milliseconds(10));
  }
}

// QEMU 7.2 goes on listing removed descriptor sets while the VM is stopped.
inline QemuVm::Fdsets fdsets_of(QemuVm& vm) {
  const auto& version = vm.control().greeting().at("QMP").at("version").at("qemu");
  return version.at("major") >= 10 ? QemuVm::Fdsets::Count : QemuVm::Fdsets::Ignore;
}

inline std::string backup_job(QemuVm& vm) {
  for (const auto& job : vm.control().execute("query-jobs")) {
    const auto id = job.at("id").get<std::string>();
    if (id.starts_with("qmpbackup-") && job.at("type") == "backup" && job.at("status") == "running") {
      return id;
    }
  }
  return "";
}

// The id of the tool's backup job, once it runs.
inline std::string wait_for_backup_job(QemuVm& vm, BackgroundProgram& run) {
  std::string id;
  wait_until("the backup job to run; the tool says: " + run.err(), [&] {
    if (!run.running()) {
      throw std::runtime_error("the tool ended early: " + run.out() + run.err());
    }
    return !(id = backup_job(vm)).empty();
  });
  return id;
}

// One disk's chain of backups, and what each level must restore to.
class TestChain {
 public:
  TestChain(QemuVm& vm, std::string disk, fs::path base)
      : vm_(&vm), disk_(std::move(disk)), device_(disk_), base_(std::move(base)), oracle_(base_) {}

  // What -deviceToBackup is given; the disk's id unless it is set.
  void set_device(const std::string& device) { device_ = device; }

  Arguments command(const Arguments& more = {}) const { return backup_command(vm_->socket(), base_, device_, more); }
  // A run whose outcome the test judges.
  ProgramResult run(const Arguments& more, const RunOptions& options = {}) const {
    return run_program(command(more), options);
  }
  // Takes a level, expects success, and remembers what the disk held. Further arguments may say how.
  ProgramResult take(int level, const Arguments& more = {}) {
    remember(level);
    auto result = run(Arguments{"-inc", std::to_string(level)} + more);
    EXPECT_EQ(result.exit_code, 0) << level_name(level) << ": " << result.err << vm_->log();
    return result;
  }
  ProgramResult take_auto(int expected_level, const Arguments& more = {}) {
    remember(expected_level);
    auto result = run(Arguments{"-inc", "auto"} + more);
    EXPECT_EQ(result.exit_code, 0) << level_name(expected_level) << ": " << result.err << vm_->log();
    return result;
  }
  void remember(int level) {
    vm_->flush(disk_);
    oracle_.remember(level, vm_->disk_content(disk_));
  }

  // The promise: levels -1 to `last` are there and restore, QEMU has this chain's last bitmap and nothing else of ours,
  // the folder no file that should not be there.
  void expect_sound(int last) {
    std::vector<int> expected;
    for (int level = -1; level <= last; ++level) {
      expected.push_back(level);
    }
    EXPECT_EQ(oracle_.committed_levels(), expected);
    EXPECT_EQ(oracle_.check_all(), std::vector<std::string>());
    expect_nothing_left(last < -1 ? std::vector<std::string>() : std::vector{bitmap(last)});
  }
  void expect_no_chain() {
    EXPECT_FALSE(fs::exists(oracle_.manifest()));
    EXPECT_FALSE(fs::exists(oracle_.level_file(-1)));
    expect_nothing_left({});
  }

  json manifest() const { return json::parse(read_file(oracle_.manifest())); }
  std::string bitmap(int level) const {
    return fmt::format("qmpbackup-{}-{}", manifest().at("chain").get<std::string>(), level_name(level));
  }
  fs::path file(int level) const { return oracle_.level_file(level); }
  const fs::path& base() const { return base_; }
  Oracle& oracle() { return oracle_; }
  QemuVm& vm() { return *vm_; }
  // Other chains' bitmaps that the disk may hold besides.
  std::vector<std::string> other_bitmaps = {};

 private:
  void expect_nothing_left(std::vector<std::string> bitmaps) {
    bitmaps.insert(bitmaps.end(), other_bitmaps.begin(), other_bitmaps.end());
    std::ranges::sort(bitmaps);
    auto found = vm_->our_bitmaps(disk_);
    std::ranges::sort(found);
    EXPECT_EQ(found, bitmaps);
    EXPECT_EQ(vm_->our_leftovers(fdsets_of(*vm_)), std::vector<std::string>());
    EXPECT_EQ(files_like(base_.parent_path(), R"(\.(partial|tmp|damaged)$)"), std::vector<std::string>());
    if (fs::exists(oracle_.manifest())) {
      EXPECT_FALSE(manifest().contains("pending")) << manifest().dump();
    }
  }

  QemuVm* vm_;
  std::string disk_, device_;
  fs::path base_;
  Oracle oracle_;
};

class IntegrationTest : public testing::Test {
 protected:
  void SetUp() override {
    QMPBACKUP_REQUIRE_QEMU();
    fs::create_directory(backups());
  }

  fs::path backups() const { return folder_ / "backups"; }
  fs::path base(const std::string& name = "disk0") const { return backups() / name; }

  // A disk with a new image.
  DiskSpec new_disk(const std::string& id, std::uint64_t size_bytes, const std::string& format = "qcow2",
                    const std::string& image_options = "") const {
    DiskSpec disk{.id = id, .image = folder_ / (id + "." + format), .format = format};
    make_image(disk.image, format, size_bytes, image_options);
    return disk;
  }

  TempFolder folder_;
};

// With one VM that has one qcow2 disk of 8 MiB, all of it written.
class OneDiskTest : public IntegrationTest {
 protected:
  static constexpr std::uint64_t disk_size = 8 * MiB;

  void SetUp() override {
    IntegrationTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) {
      return;
    }
    vm_ = std::make_unique<QemuVm>(folder_, std::vector{new_disk("disk0", disk_size)}, vm_options());
    vm_->start();
    vm_->write("disk0", 0, disk_size, 0x11);
    chain_ = std::make_unique<TestChain>(*vm_, "disk0", base());
  }

  virtual VmOptions vm_options() { return {.name = "web1"}; }

  QemuVm& vm() { return *vm_; }
  TestChain& chain() { return *chain_; }

  // A run that takes minutes, unless it ends otherwise.
  BackgroundProgram start_slow_run(const Arguments& more = {}) {
    BackgroundProgram run(chain().command(Arguments{"--speed-limit", "32K", "--compress", "none"} + more));
    wait_for_backup_job(vm(), run);
    return run;
  }
  // Lets the job of a slow run end soon.
  void unlimit_backup_job() {
    if (const auto job = backup_job(vm()); !job.empty()) {
      vm().control().try_execute("block-job-set-speed", {{"device", job}, {"speed", 0}});
    }
  }
  // A foreign backup job of a node to nowhere, limited to one byte a second unless told otherwise.
  void start_foreign_job(const std::string& node, std::uint64_t size, std::uint64_t speed = 1) {
    vm().control().execute("blockdev-add",
                           {{"driver", "null-co"}, {"node-name", "nowhere"}, {"size", size}, {"read-zeroes", true}});
    vm().control().execute("blockdev-backup", {{"job-id", "foreign"},
                                               {"device", node},
                                               {"target", "nowhere"},
                                               {"sync", "full"},
                                               {"speed", speed},
                                               {"auto-dismiss", false}});
  }

 private:
  std::unique_ptr<QemuVm> vm_;
  std::unique_ptr<TestChain> chain_;
};

}  // namespace qmpbackup::test
