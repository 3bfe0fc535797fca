// Lets each step of a run fail in turn (kill_shim.cpp).
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>
#include <iostream>

#include "crash/scene.hpp"

namespace qmpbackup::test {

// The tool's environment in which its look at that folder with this number fails.
inline std::map<std::string, std::string> failing_look(const std::filesystem::path& folder, std::uint64_t number) {
  return {{"LD_PRELOAD", QMPBACKUP_KILL_SHIM}, {"QMPBACKUP_KILL_LOOK", fmt::format("{},{}", number, folder.string())}};
}

// Calls `run` with 0, 1 ... (only each `stride`th, unless all rounds are asked for) until nothing fails in it any more,
// and `check` after each that failed.
inline void fail_each(std::uint64_t stride, const std::function<ProgramResult(std::uint64_t)>& run,
                      const std::function<void(const std::string& where)>& check) {
  stride = all_rounds() ? 1 : stride;
  int failures = 0;
  for (std::uint64_t k = crash_seed() % stride; !testing::Test::HasFatalFailure(); k += stride) {
    const ProgramResult result = run(k);
    const std::string where = fmt::format("number {} fails: {}", k, result.err);
    if (result.err.find("kill_shim") == std::string::npos) {
      EXPECT_EQ(result.exit_code, 0) << where;
      break;
    }
    Scene::count_fault();
    ++failures;
    EXPECT_TRUE(result.exit_code == 0 || result.exit_code == 1) << where;
    check(where);
  }
  EXPECT_GT(failures, 2);
  std::cout << failures << " failed\n";
}

}  // namespace qmpbackup::test
