// Which bitmaps of a chain are somebody's, and which are leftovers; and whose disk one is on.
#include "qmpbackup/level_bitmap.hpp"

#include "unit/planner_fixture.hpp"

namespace qmpbackup::test {
namespace {

class LevelBitmaps : public PlannerTest {
 protected:
  // Of a chain with the full and inc0, on a node with the bitmaps of these levels.
  std::vector<int> kept_of(const std::vector<int>& levels) {
    have_chain_up_to(0);
    node().bitmaps = {bitmap_called(level_bitmap(kFresh, Level{5})), bitmap_called({"qmpbackup-else"})};
    for (const int level : levels) {
      node().bitmaps.push_back(bitmap_called(level_bitmap(kChain, Level{level})));
    }
    std::vector<int> kept;
    for (const BitmapName& name : bitmaps_to_keep(manifest(), vm_.nodes)) {
      EXPECT_EQ(parse_chain_level(name.value)->chain, kChain) << "of other chains nothing is asked";
      kept.push_back(parse_chain_level(name.value)->level.number);
    }
    return kept;
  }
};

TEST_F(LevelBitmaps, Of_The_Last_Level_Stays_And_That_Of_A_Run_That_Ended_Early_Goes) {
  EXPECT_EQ(kept_of({0}), std::vector<int>{0});
  EXPECT_EQ(kept_of({-1, 0, 1}), std::vector<int>{0});
}

TEST_F(LevelBitmaps, That_Only_A_Newer_Manifest_Can_Name_Stay) {
  EXPECT_EQ(kept_of({1}), (std::vector<int>{0, 1})) << "that run would have kept the bitmap of inc0";
  EXPECT_EQ(kept_of({2}), (std::vector<int>{0, 2}));
  EXPECT_EQ(kept_of({0, 1, 3}), (std::vector<int>{0, 3}));
}

TEST_F(LevelBitmaps, Tell_The_Chain_Of_A_Disk_Whatever_It_Is_Called) {
  have_chain_up_to(0);
  ask(1);
  manifest().device = "drive1";
  Node other = node();
  other.name = {"#block5"};
  vm_.nodes.push_back(other);
  EXPECT_NO_THROW(plan()) << "the disk under another name";
  vm_.devices.push_back({"drive1", "", {"#block5"}});
  EXPECT_NO_THROW(plan()) << "it has the chain's bitmap";
  node().bitmaps.clear();
  EXPECT_REFUSED(ChainError, "is a chain of device drive1");
  for (const char* no_name : {"/machine/peripheral-anon/device[0]/virtio-backend", "drive0"}) {
    vm_.devices.back() = {"", no_name, {"#block5"}};
    manifest().device = no_name;
    EXPECT_REFUSED(NewFullNeeded, "no bitmap");
  }
}

// A copy of the disk's image may have the bitmap of the attempt that was taken back.
TEST_F(LevelBitmaps, Of_A_Level_That_Was_Stored_And_Taken_Back_Have_Another_Granularity) {
  have_chain_up_to(0);
  ask(1);
  EXPECT_EQ(disk_plan().pending().granularity, kGranularity);
  manifest().stored_attempts = 1;
  EXPECT_EQ(disk_plan().pending().granularity, 2 * kGranularity);
  manifest().stored_attempts = 1000;
  EXPECT_EQ(disk_plan().pending().granularity, 32 * kGranularity);
  last_bitmap().granularity *= 2;
  EXPECT_REFUSED(NewFullNeeded, "is that of an earlier attempt at it");
  ask_auto();
  EXPECT_EQ(disk_plan().pending().granularity, kGranularity) << "a new chain has no past";
  manifest().levels.back().granularity = last_bitmap().granularity;
  EXPECT_EQ(disk_plan().pending().level, Level{1});
}

TEST_F(LevelBitmaps, None_Is_Kept_For_A_Chain_Without_Levels) {
  have_chain_up_to(0);
  manifest().levels.clear();
  EXPECT_TRUE(bitmaps_to_keep(manifest(), vm_.nodes).empty());
}

}  // namespace
}  // namespace qmpbackup::test
