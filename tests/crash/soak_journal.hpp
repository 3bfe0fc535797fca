// What a soak did and found.
#pragma once

#include <fmt/format.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "crash/scene.hpp"
#include "support/program.hpp"

namespace qmpbackup::test {

class SoakJournal {
 public:
  explicit SoakJournal(std::uint64_t seed) : seed_(seed) {}

  int violations() const { return violations_; }

  void begin_world(std::string what) {
    ++worlds_;
    history_ = {std::move(what)};
  }
  void begin_step(const char* name) {
    ++steps_;
    note(name);
  }
  void note(std::string what) { history_.push_back(std::move(what)); }

  // Nothing when nothing was found. Else prints it with what led to it, and keeps what is on disk.
  void violation(const Violations& found, const Scene* scene) {
    if (found.empty()) {
      return;
    }
    violations_ += static_cast<int>(found.size());
    const std::filesystem::path evidence = fmt::format("/tmp/qmpbackup-soak-{}-{}", seed_, ++evidences_);
    std::cout << fmt::format("VIOLATION, kept in {}:\n", evidence.string());
    for (const std::string& line : found) {
      std::cout << "  " << line << "\n";
    }
    constexpr std::size_t kShown = 30;
    for (std::size_t i = history_.size() > kShown ? history_.size() - kShown : 0; i < history_.size(); ++i) {
      std::cout << "    " << history_[i] << "\n";
    }
    std::cout << std::flush;
    if (scene != nullptr) {
      std::filesystem::create_directories(evidence);
      run_program({"cp", "-a", scene->everything(), evidence});
      run_program({"cp", "-a", scene->folder(), evidence / "chain"});
    }
  }

  // A line a minute.
  void report_now_and_then() {
    if (Clock::now() > next_report_) {
      next_report_ += std::chrono::minutes(1);
      report("so far");
    }
  }
  void report(const char* when) const {
    std::cout << fmt::format("{}: seed {}, {} worlds, {} steps, {} faults, {} levels compared, {} violations\n", when,
                             seed_, worlds_, steps_, Scene::total_faults(), KnownLevels::total_compared(), violations_)
              << std::flush;
  }

 private:
  using Clock = std::chrono::steady_clock;

  std::uint64_t seed_;
  std::vector<std::string> history_;
  Clock::time_point next_report_ = Clock::now() + std::chrono::minutes(1);
  int worlds_ = 0;
  int steps_ = 0;
  int violations_ = 0;
  int evidences_ = 0;
};

}  // namespace qmpbackup::test
