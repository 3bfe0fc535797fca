#include "support/oracle.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <atomic>
#include <iostream>
#include <stdexcept>

#include "support/images.hpp"
#include "support/program.hpp"

namespace qmpbackup::test {

namespace fs = std::filesystem;

namespace {

std::atomic<int> levels_compared{0};

// A run that compared nothing should be seen.
class Reporter : public testing::Environment {
  void TearDown() override {
    if (levels_compared > 0) {
      std::cout << "oracle: restored and compared " << levels_compared << " levels\n";
    }
  }
};
[[maybe_unused]] const auto* const reporter = testing::AddGlobalTestEnvironment(new Reporter);

std::string file_name_of(const fs::path& base, int level) {
  return base.filename().string() + "." + level_name(level) + ".qcow2";
}

}  // namespace

std::string level_name(int level) {
  return level < 0 ? "full" : "inc" + std::to_string(level);
}

fs::path Oracle::level_file(int level) const {
  return base_.parent_path() / file_name_of(base_, level);
}

fs::path Oracle::manifest() const {
  return base_.string() + ".chain.json";
}

int Oracle::total_compared() {
  return levels_compared;
}

void Oracle::remember(int level, const fs::path& raw_content) {
  const auto copy = copies_ / (level_name(level) + ".raw");
  run_checked({"cp", "--reflink=auto", "--sparse=always", raw_content, copy});
  remembered_[level] = copy;
}

std::vector<int> Oracle::committed_levels() const {
  std::vector<int> levels;
  if (fs::exists(manifest())) {
    const auto content = nlohmann::json::parse(read_file(manifest()));
    for (const auto& entry : content.at("levels")) {
      const int level = entry.at("level").get<int>();
      if (entry.at("file") != file_name_of(base_, level)) {
        throw std::runtime_error("level " + level_name(level) + " names the file " + entry.at("file").dump());
      }
      levels.push_back(level);
    }
  }
  return levels;
}

std::vector<std::string> Oracle::check_all() const {
  std::vector<std::string> violations;
  try {
    int expected = -1;
    for (const int level : committed_levels()) {
      if (level != expected++) {
        violations.push_back("the manifest has " + level_name(level) + " where " + level_name(expected - 1) +
                             " should be");
      }
      if (const auto problem = check_level(level); !problem.empty()) {
        violations.push_back(level_name(level) + ": " + problem);
      }
    }
  } catch (const std::exception& error) {
    violations.push_back(manifest().string() + ": " + error.what());
  }
  return violations;
}

std::string Oracle::check_level(int level) const {
  const auto file = level_file(level);
  const auto known = remembered_.find(level);
  if (!fs::exists(file)) {
    return "committed, and its file is missing: " + file.string();
  }
  if (known == remembered_.end()) {
    return "committed, and the test does not know what it should hold";
  }
  const auto restored = copies_ / "restored.raw";
  if (const auto result = run_program({"qemu-img", "convert", "-O", "raw", file, restored}); result.exit_code != 0) {
    return "cannot be restored: " + result.err;
  }
  const auto problem = difference(known->second, restored);
  fs::remove(restored);
  ++levels_compared;
  return problem;
}

}  // namespace qmpbackup::test
