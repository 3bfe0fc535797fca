// The tool dies before or after each of its steps on files: fsync, rename, unlink, mkdir, the creation of a file.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <iostream>

#include "crash/kinds.hpp"
#include "crash/scene.hpp"
#include "support/requirements.hpp"

namespace qmpbackup::test {

namespace {

class File_Step : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override { QMPBACKUP_REQUIRE_QEMU(); }
};

}  // namespace

TEST_P(File_Step, Killed_Around_It_The_Tool_Loses_Nothing) {
  const std::uint64_t step = all_rounds() ? 1 : GetParam() == Kind::NewFullOverBrokenChain ? 9 : 5;
  Scene scene(crash_seed());
  int kills = 0;
  for (std::uint64_t k = crash_seed() % step;; k += step) {
    ASSERT_NO_FATAL_FAILURE(prepare(scene, GetParam()));
    const std::size_t chains = chain_bases(scene.base()).size();
    const std::string when = k % 2 == 0 ? "before" : "after";
    scene.set_environment({{"LD_PRELOAD", QMPBACKUP_KILL_SHIM},
                           {"QMPBACKUP_KILL_STEP", std::to_string(k / 2)},
                           {"QMPBACKUP_KILL_WHEN", when}});
    const ProgramResult result = scene.backup(arguments_of(GetParam()));
    scene.set_environment({});
    if (result.signal != SIGKILL) {
      EXPECT_EQ(result.exit_code, 0) << result.err;
      break;
    }
    Scene::count_fault();
    ++kills;
    const std::string where = fmt::format("{} file step {}", when, k / 2);
    EXPECT_EQ(scene.recover_and_check(1), Violations{}) << where << scene.last_words();
    EXPECT_LE(chain_bases(scene.base()).size(), chains + (GetParam() == Kind::NewFullOverBrokenChain ? 1 : 0)) << where;
  }
  EXPECT_GT(kills, 2);
  std::cout << name_of(GetParam()) << ": " << kills << " kills\n";
}

INSTANTIATE_TEST_SUITE_P(Each, File_Step, testing::Values(Kind::Full, Kind::Incremental, Kind::NewFullOverBrokenChain),
                         kind_name);

}  // namespace qmpbackup::test
