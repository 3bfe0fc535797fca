// Which bitmaps of a chain are somebody's, and which are leftovers.
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

TEST_F(LevelBitmaps, None_Is_Kept_For_A_Chain_Without_Levels) {
  have_chain_up_to(0);
  manifest().levels.clear();
  EXPECT_TRUE(bitmaps_to_keep(manifest(), vm_.nodes).empty());
}

}  // namespace
}  // namespace qmpbackup::test
