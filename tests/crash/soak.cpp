// Random harm for as long as one likes:
//   soak --minutes N --seed S [--qemu PATH]
// Each step changes the disk, does one thing of steps() below, and lets the judge of the crash suite look. Prints a
// line a minute and the figures at the end. Exits with 1 when a level was lost or wrong, something was left over or a
// run needed a human; what was on disk then stays in /tmp/qmpbackup-soak-<seed>-<n>.
#include <fmt/format.h>
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "crash/scene.hpp"
#include "crash/soak_journal.hpp"
#include "crash/soak_world.hpp"

namespace qmpbackup::test {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

struct Settings {
  int minutes = 1;
  std::uint64_t seed = 1;
  std::string qemu = vm_binary();
};

class Soak {
 public:
  explicit Soak(Settings settings) : settings_(std::move(settings)), journal_(settings_.seed) {}

  // The number of violations.
  int run() {
    const auto end = Clock::now() + std::chrono::minutes(settings_.minutes);
    while (Clock::now() < end) {
      live_in_a_new_world(end);
    }
    journal_.report("in all");
    return journal_.violations();
  }

 private:
  struct Step {
    int weight;
    const char* name;
    void (Soak::*act)();
  };

  static const std::vector<Step>& steps() {
    static const std::vector<Step> all = {
        {4, "backup", &Soak::backup},
        {2, "next level", &Soak::take_next_level},
        {3, "guest writes in the gaps", &Soak::write_in_gaps},
        {6, "tool killed at a message", &Soak::kill_tool_at_message},
        {4, "tool killed at a time", &Soak::kill_tool_at_time},
        {4, "tool killed at a file step", &Soak::kill_tool_at_file_step},
        {2, "tool interrupted", &Soak::interrupt_tool},
        {3, "QEMU killed at a message", &Soak::kill_qemu_at_message},
        {2, "QEMU terminated at a message", &Soak::terminate_qemu_at_message},
        {2, "both killed at a message", &Soak::kill_both_at_message},
        {3, "power cut at a message", &Soak::cut_power_at_message},
        {1, "QEMU killed between runs", &Soak::kill_qemu},
        {2, "clean restart", &Soak::restart},
        {3, "full target", &Soak::fill_target},
        {2, "target full at the end", &Soak::fill_target_late},
        {1, "grown", &Soak::grow},
        {1, "shrunk", &Soak::shrink},
        {1, "shrunk and grown", &Soak::shrink_and_grow},
        {1, "bitmaps removed", &Soak::remove_bitmaps},
        {1, "new chain", &Soak::begin_chain},
    };
    return all;
  }

  void live_in_a_new_world(Clock::time_point end) {
    constexpr int kSteps = 40;
    const std::uint64_t seed = settings_.seed * 1'000'003 + ++worlds_;
    std::mt19937_64 random(seed);
    const SceneOptions options = random_world(random, settings_.qemu);
    journal_.begin_world(fmt::format("world {}: {}", worlds_, describe(options)));
    runs_ = !options.start_paused;
    try {
      scene_ = std::make_unique<Scene>(seed, options);
      const int violations = journal_.violations();
      for (int i = 0; i < kSteps && Clock::now() < end && journal_.violations() == violations; ++i) {
        one_step();
      }
    } catch (const std::exception& error) {
      violation({fmt::format("the world broke: {}; QEMU says: {}", error.what(), scene_ ? scene_->vm().log() : "")});
    }
    scene_.reset();
  }

  void one_step() {
    int total = 0;
    for (const Step& step : steps()) {
      total += step.weight;
    }
    auto drawn = static_cast<int>(scene_->below(static_cast<std::uint64_t>(total)));
    const Step* chosen = nullptr;
    for (const Step& step : steps()) {
      if (drawn < step.weight) {
        chosen = &step;
        break;
      }
      drawn -= step.weight;
    }
    constexpr std::size_t kManyChains = 4;
    constexpr std::size_t kManyLevels = 9;
    if (chain_bases(scene_->base()).size() > kManyChains || scene_->levels().size() > kManyLevels) {
      begin_chain();
    }
    journal_.begin_step(chosen->name);
    scene_->change_disk(1 + static_cast<int>(scene_->below(8)));
    (this->*chosen->act)();
    if (runs_ && scene_->vm().status() != "running") {
      violation({"the guest ran, and is now " + scene_->vm().status()});
    }
    journal_.report_now_and_then();
  }

  // Steps.
  void backup() { expect_success(random_arguments(*scene_, {"-inc", "auto"})); }

  void take_next_level() {
    const auto levels = scene_->levels();
    const ProgramResult result = run({"-inc", std::to_string(static_cast<int>(levels.size()) - 1)});
    if (result.exit_code != 0 && result.exit_code != 3) {
      violation({fmt::format("exit code {}: {}", result.exit_code, result.err)});
    }
    if ((result.exit_code == 0) != (scene_->levels().size() == levels.size() + 1)) {
      violation(
          {fmt::format("exit code {} with {} levels: {}", result.exit_code, scene_->levels().size(), result.err)});
    }
    recover();
  }

  void write_in_gaps() {
    const ProgramResult result = run(random_arguments(*scene_, {"-inc", "auto"}), [this](const Point& point) {
      if (is_clear_cut(point) && scene_->below(8) == 0) {
        scene_->change_disk(1);
        Scene::count_gap_write();
      }
      return Verdict::Forward;
    });
    expect_success(result);
    recover();
  }

  void kill_tool_at_message() {
    harm_at_message([this](const Point& point) { return scene_->kill_tool(point); });
  }
  void kill_qemu_at_message() {
    harm_at_message([this](const Point&) { return scene_->end_qemu(SIGKILL, scene_->below(2) == 0); });
  }
  void terminate_qemu_at_message() {
    harm_at_message([this](const Point&) { return scene_->end_qemu(SIGTERM, scene_->below(2) == 0); });
  }
  void kill_both_at_message() {
    harm_at_message([this](const Point& point) {
      const Verdict verdict = scene_->kill_tool(point);
      scene_->end_qemu(SIGKILL, false);
      return verdict;
    });
  }

  // Needs a powered folder: else an ordinary backup.
  void cut_power_at_message() {
    if (scene_->power() == nullptr) {
      return backup();
    }
    harm_at_message([this](const Point& point) {
      scene_->power()->cut_power();
      const Verdict verdict = scene_->below(2) == 0 ? scene_->kill_tool(point) : Verdict::Forward;
      if (scene_->below(2) == 0) {
        scene_->end_qemu(SIGKILL, false);
      }
      return verdict;
    });
  }

  void harm_at_message(const std::function<Verdict(const Point&)>& harm) {
    constexpr std::uint64_t kMessages = 90;
    do {
      const auto message = static_cast<int>(scene_->below(kMessages));
      const auto moment = static_cast<Moment>(scene_->below(4));
      run(random_arguments(*scene_, {"-inc", "auto"}), [=, this](const Point& point) {
        if (point.message != message || point.moment != moment) {
          return Verdict::Forward;
        }
        note(describe(point));
        return harm(point);
      });
    } while (again());
    recover();
  }

  void kill_tool_at_time() {
    do {
      scene_->signal_after(std::chrono::milliseconds(scene_->below(400)), SIGKILL);
      run(random_arguments(*scene_, {"-inc", "auto"}));
    } while (again());
    recover();
  }

  void kill_tool_at_file_step() {
    constexpr std::uint64_t kSteps = 60;
    do {
      const std::string step = std::to_string(scene_->below(kSteps));
      const char* when = scene_->below(2) == 0 ? "before" : "after";
      const bool cuts_power = scene_->power() != nullptr && scene_->below(2) == 0;
      std::map<std::string, std::string> environment{
          {"LD_PRELOAD", QMPBACKUP_KILL_SHIM}, {"QMPBACKUP_KILL_STEP", step}, {"QMPBACKUP_KILL_WHEN", when}};
      if (cuts_power) {
        environment["QMPBACKUP_KILL_POWER"] = scene_->folder();
      }
      scene_->set_environment(environment);
      note(fmt::format("{} file step {}{}", when, step, cuts_power ? ", with a power cut" : ""));
      if (run(random_arguments(*scene_, {"-inc", "auto"})).signal == SIGKILL) {
        Scene::count_fault();
      }
      scene_->set_environment({});
    } while (again());
    recover();
  }

  // Whether the recovery gets hurt as well.
  bool again() {
    scene_->start_again();
    return scene_->below(3) == 0;
  }

  void interrupt_tool() {
    scene_->signal_after(std::chrono::milliseconds(scene_->below(400)), scene_->below(2) == 0 ? SIGTERM : SIGINT);
    const ProgramResult result = run(random_arguments(*scene_, {"-inc", "auto"}));
    // Before the handler is there, the signal simply kills.
    if (result.exit_code != 0 && result.exit_code != 128 + SIGTERM && result.exit_code != 128 + SIGINT) {
      violation({fmt::format("exit code {}: {}", result.exit_code, result.err)});
    }
    recover();
  }

  void kill_qemu() {
    scene_->end_qemu(SIGKILL, false);
    recover();
  }

  void restart() {
    scene_->vm().restart();
    recover();
  }

  // Needs a tmpfs: else an ordinary backup.
  void fill_target() {
    if (scene_->tmpfs() == nullptr) {
      return backup();
    }
    Scene::count_fault();
    scene_->tmpfs()->resize(used_bytes() + scene_->below(24) * 64 * KiB + 4 * KiB);
    fail_for_lack_of_space(run(random_arguments(*scene_, {"-inc", "auto", "--no-space-check"})));
  }

  void fill_target_late() {
    if (scene_->tmpfs() == nullptr) {
      return backup();
    }
    fail_for_lack_of_space(run(random_arguments(*scene_, {"-inc", "auto"}), [this](const Point& point) {
      if (point.command == "blockdev-reopen" && point.moment == Moment::BeforeSending) {
        Scene::count_fault();
        scene_->tmpfs()->resize(used_bytes());
      }
      return Verdict::Forward;
    }));
  }

  void fail_for_lack_of_space(const ProgramResult& result) {
    scene_->tmpfs()->resize(kRoom);
    if (result.exit_code > 1) {
      violation({fmt::format("exit code {}: {}", result.exit_code, result.err)});
    }
    recover();
  }

  void grow() { resize_and_recover({scene_->disk_bytes() + 512 * (1 + scene_->below(2000))}); }
  void shrink() { resize_and_recover({smaller()}); }
  void shrink_and_grow() { resize_and_recover({smaller(), scene_->disk_bytes() + 512 * scene_->below(2000)}); }
  std::uint64_t smaller() { return (scene_->disk_bytes() / 512 - scene_->below(scene_->disk_bytes() / 1024)) * 512; }

  void resize_and_recover(const std::vector<std::uint64_t>& sizes) {
    expect_success(run({"-inc", "auto"}));
    Scene::count_fault();
    for (const std::uint64_t size : sizes) {
      note(fmt::format("size {}", size));
      scene_->resize(size);
    }
    if (scene_->below(2) == 0) {
      scene_->change_disk(5);
    }
    recover();
    if (scene_->disk_bytes() > 9 * MiB) {
      scene_->resize(2 * MiB);
      begin_chain();
    }
  }

  void remove_bitmaps() {
    Scene::count_fault();
    scene_->remove_bitmaps();
    recover();
  }

  void begin_chain() {
    scene_->new_chain();
    expect_success(run(random_arguments(*scene_, {})));
  }

  // Tools.
  ProgramResult run(const std::vector<std::string>& arguments, Scene::Meddling meddling = {}) {
    std::string line;
    for (const std::string& argument : arguments) {
      line += " " + argument;
    }
    note("qmpbackup" + line);
    ProgramResult result = scene_->backup(arguments, std::move(meddling));
    note(fmt::format("  exits with {}: {}", result.exit_code, result.err));
    return result;
  }

  void expect_success(const ProgramResult& result) {
    if (result.exit_code != 0) {
      violation({fmt::format("exit code {}: {}", result.exit_code, result.err)});
    } else {
      violation(scene_->check_settled());
    }
  }
  void expect_success(const std::vector<std::string>& arguments) { expect_success(run(arguments)); }

  void recover() {
    const bool was_ended = !scene_->vm().running();
    scene_->start_again();
    if (was_ended) {
      note("QEMU started again");
    }
    violation(scene_->recover_and_check());
  }

  std::uint64_t used_bytes() const {
    const auto space = fs::space(scene_->folder());
    return space.capacity - space.free;
  }

  void note(std::string what) { journal_.note(std::move(what)); }
  void violation(const Violations& found) { journal_.violation(found, scene_.get()); }

  Settings settings_;
  std::unique_ptr<Scene> scene_;
  SoakJournal journal_;
  bool runs_ = false;
  std::uint64_t worlds_ = 0;
};

}  // namespace

}  // namespace qmpbackup::test

int main(int argc, char** argv) {
  qmpbackup::test::Settings settings;
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  for (std::size_t i = 0; i + 1 < arguments.size(); i += 2) {
    const std::string& value = arguments[i + 1];
    if (arguments[i] == "--minutes") {
      settings.minutes = std::stoi(value);
    } else if (arguments[i] == "--seed") {
      settings.seed = std::stoull(value);
    } else if (arguments[i] == "--qemu") {
      settings.qemu = value;
    }
  }
  if (arguments.empty() || arguments.size() % 2 != 0) {
    std::cerr << "usage: soak --minutes N --seed S [--qemu PATH]\n";
    return 2;
  }
  std::cout << "soak: seed " << settings.seed << ", " << settings.minutes << " minutes, " << settings.qemu << std::endl;
  return qmpbackup::test::Soak(settings).run() == 0 ? 0 : 1;
}
