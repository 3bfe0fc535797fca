// The tool or QEMU dies at each message of a run, and at each moment of the message.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <iostream>

#include "crash/kinds.hpp"
#include "crash/scene.hpp"
#include "support/requirements.hpp"

namespace qmpbackup::test {

namespace {

enum class Victim { Tool, QemuKilled, QemuTerminated };

const char* name_of(Victim victim) {
  switch (victim) {
    case Victim::Tool:
      return "ToolKilled";
    case Victim::QemuKilled:
      return "QemuKilled";
    case Victim::QemuTerminated:
      return "QemuTerminated";
  }
  return "";
}

using Case = std::tuple<Victim, Kind>;

std::string case_name(const testing::TestParamInfo<Case>& info) {
  return fmt::format("{}_{}", name_of(std::get<Victim>(info.param)), name_of(std::get<Kind>(info.param)));
}

class Proxy_Kill : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override { QMPBACKUP_REQUIRE_QEMU(); }

  // Ends the victim at point number `k` of a run; false when the run was over before.
  static bool end_victim_at(Scene& scene, int k, std::string& where) {
    const auto [victim, kind] = GetParam();
    const Point wanted{k / 4, static_cast<Moment>(k % 4), ""};
    bool fired = false;
    const auto levels_before = scene.levels();
    const std::size_t archives_before = chain_bases(scene.base()).size();
    const auto result = scene.backup(arguments_of(kind), [&](const Point& point) {
      if (fired || point.message != wanted.message || point.moment != wanted.moment) {
        return Verdict::Forward;
      }
      fired = true;
      where = describe(point);
      switch (victim) {
        case Victim::Tool:
          return scene.kill_tool(point);
        case Victim::QemuKilled:
          return scene.end_qemu(SIGKILL, point.message % 2 == 0);
        case Victim::QemuTerminated:
          return scene.end_qemu(SIGTERM, point.message % 2 == 0);
      }
      return Verdict::Forward;
    });
    const bool committed = scene.levels() != levels_before || chain_bases(scene.base()).size() != archives_before;
    if (fired && victim != Victim::Tool) {
      // 1: a QEMU that is about to end may refuse a command first.
      EXPECT_TRUE(result.exit_code == 0 || result.exit_code == 4 || result.exit_code == 1)
          << where << ": " << result.exit_code << result.err;
    }
    if (result.exit_code == 0) {
      EXPECT_TRUE(committed) << where;
    }
    scene.start_again();
    return fired;
  }
};

}  // namespace

TEST_P(Proxy_Kill, Loses_Nothing_And_Needs_No_Human) {
  const Kind kind = std::get<Kind>(GetParam());
  const int step = all_rounds() ? 1 : kind == Kind::Full ? 67 : 89;
  Scene scene(crash_seed());
  int rounds = 0;
  for (int k = static_cast<int>(crash_seed() % static_cast<std::uint64_t>(step));; k += step, ++rounds) {
    ASSERT_NO_FATAL_FAILURE(prepare(scene, kind));
    const std::size_t archives = chain_bases(scene.base()).size();
    std::string where;
    if (!end_victim_at(scene, k, where)) {
      break;
    }
    const bool bitmaps_survived = scene.bitmaps_survived();
    EXPECT_EQ(scene.recover_and_check(), Violations{}) << where << scene.last_words();
    if (bitmaps_survived) {
      EXPECT_LE(chain_bases(scene.base()).size(), archives + (kind == Kind::NewFullOverBrokenChain ? 1 : 0))
          << where << ": a new full, though the bitmaps were there" << scene.last_words();
    }
    if (HasFatalFailure()) {
      return;
    }
  }
  EXPECT_GT(rounds, 1);
  std::cout << case_name({GetParam(), 0}) << ": " << rounds << " kills\n";
}

INSTANTIATE_TEST_SUITE_P(Each, Proxy_Kill,
                         testing::Combine(testing::Values(Victim::Tool, Victim::QemuKilled, Victim::QemuTerminated),
                                          testing::Values(Kind::Full, Kind::Incremental, Kind::NewFullOverBrokenChain)),
                         case_name);

// The recovery of a killed run is a run like any other: it may be killed, too.
TEST(Recovery_Killed, Loses_Nothing_And_Needs_No_Human) {
  QMPBACKUP_REQUIRE_QEMU();
  constexpr std::uint64_t kMessages = 70;  // of a run, more or less
  Scene scene(crash_seed());
  for (int round = 0; round < (all_rounds() ? 100 : 6); ++round) {
    ASSERT_NO_FATAL_FAILURE(prepare(scene, static_cast<Kind>(round % 3)));
    const std::size_t chains = chain_bases(scene.base()).size();
    std::string where;
    for (int kill = 0; kill < 3; ++kill) {
      const auto message = static_cast<int>(scene.below(kMessages));
      scene.backup({"-inc", "auto"}, [&](const Point& point) {
        if (point.message != message || point.moment != Moment::AfterReply) {
          return Verdict::Forward;
        }
        where += describe(point) + ", ";
        return scene.kill_tool(point);
      });
    }
    EXPECT_EQ(scene.recover_and_check(1), Violations{}) << where << scene.last_words();
    EXPECT_LE(chain_bases(scene.base()).size(), chains + (round % 3 == 2 ? 1 : 0)) << where << scene.last_words();
  }
}

namespace {

class Guest_Write_In_A_Gap : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override { QMPBACKUP_REQUIRE_QEMU(); }
};

}  // namespace

// One run with a write of its own pattern and place in every gap.
TEST_P(Guest_Write_In_A_Gap, Is_In_This_Level_Or_The_Next_One_All_Gaps_At_Once) {
  constexpr std::uint64_t kLength = 4 * KiB;
  Scene scene(crash_seed());
  for (int round = 0; round < (all_rounds() ? 20 : 2); ++round) {
    ASSERT_NO_FATAL_FAILURE(prepare(scene, GetParam()));
    std::uint64_t gap = 0;
    const auto result = scene.backup(arguments_of(GetParam()), [&](const Point& point) {
      if (is_clear_cut(point)) {
        // 7 is coprime to the number of places: all over the disk before any place is written again.
        scene.vm().write(Scene::disk, gap * 7 * kLength % (4 * MiB), kLength, static_cast<std::uint8_t>(1 + gap % 255));
        Scene::count_gap_write();
        ++gap;
      }
      return Verdict::Forward;
    });
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_GT(gap, 100U);
    EXPECT_EQ(scene.check_settled(), Violations{});
    EXPECT_EQ(scene.recover_and_check(), Violations{});
  }
}

// Nothing else marks the granule that is written: a lost write cannot hide behind another one.
TEST_P(Guest_Write_In_A_Gap, Is_In_This_Level_Or_The_Next_One_One_Gap_At_A_Time) {
  const int step = all_rounds() ? 1 : 101;
  Scene scene(crash_seed());
  int k = static_cast<int>(crash_seed() % static_cast<std::uint64_t>(step));
  for (bool reached = true; reached; k += step) {
    ASSERT_NO_FATAL_FAILURE(prepare(scene, GetParam()));
    std::string where;
    const auto result = scene.backup(arguments_of(GetParam()), [&](const Point& point) {
      if (point.message == k / 4 && static_cast<int>(point.moment) == k % 4 && is_clear_cut(point)) {
        where = describe(point);
        const std::uint64_t granule = scene.below(48);  // none of the last MiB, which every level copies
        scene.vm().write(Scene::disk, granule * 64 * KiB, 512, static_cast<std::uint8_t>(1 + k % 255));
        Scene::count_gap_write();
      }
      return Verdict::Forward;
    });
    reached = scene.proxy().messages() > k / 4;
    ASSERT_EQ(result.exit_code, 0) << where << result.err;
    EXPECT_EQ(scene.check_settled(), Violations{}) << where;
    EXPECT_EQ(scene.backup({"-inc", "auto"}).exit_code, 0) << where;
    EXPECT_EQ(scene.check_settled(), Violations{}) << where;
  }
}

INSTANTIATE_TEST_SUITE_P(Each, Guest_Write_In_A_Gap,
                         testing::Values(Kind::Full, Kind::Incremental, Kind::NewFullOverBrokenChain), kind_name);

}  // namespace qmpbackup::test
