// What others left for a plan: an empty image made beforehand, and chains of the Go tool.
#include "unit/planner_fixture.hpp"

namespace qmpbackup::test {
namespace {

using PlannerWithForeignFiles = PlannerTest;

TEST_F(PlannerWithForeignFiles, Uses_An_Empty_Image_Of_The_Right_Size_That_Was_Made_Beforehand) {
  have_empty_image(kGiB);
  EXPECT_EQ(disk_plan().pending().level, kFullLevel);
  EXPECT_FALSE(disk_plan().pending().archive);
  ask_auto();
  EXPECT_EQ(disk_plan().pending().level, kFullLevel);
  EXPECT_FALSE(disk_plan().pending().archive);
  EXPECT_TRUE(plan().warnings.empty());
}

TEST_F(PlannerWithForeignFiles, Refuses_An_Empty_Image_Of_Another_Size) {
  have_empty_image(kGiB + 512);
  EXPECT_REFUSED(ChainError, "has 1073742336 bytes, the disk has 1073741824");
}

TEST_F(PlannerWithForeignFiles, Auto_Never_Replaces_An_Empty_Image_Of_Another_Size) {
  have_empty_image(kGiB + 512);
  ask_auto();
  EXPECT_REFUSED(ChainError, "has 1073742336 bytes, the disk has 1073741824");
}

TEST_F(PlannerWithForeignFiles, An_Empty_Image_Is_No_Full_To_Put_An_Incremental_On) {
  have_empty_image(kGiB);
  ask(0);
  EXPECT_REFUSED(NewFullNeeded, "no full backup");
}

TEST_F(PlannerWithForeignFiles, A_Foreign_Chain_Needs_Adopt_And_The_Hint_Says_So) {
  have_foreign_chain_up_to(0);
  ask(1);
  EXPECT_REFUSED(NewFullNeeded, "-inc 1 --adopt");
  node().bitmaps.clear();
  EXPECT_EQ(refusal<NewFullNeeded>().find("--adopt"), std::string::npos) << "it would not help";
}

TEST_F(PlannerWithForeignFiles, A_Full_Over_A_Foreign_Chain_Names_Adopt_And_Auto_Says_What_It_Gives_Up) {
  have_foreign_chain_up_to(0);
  EXPECT_REFUSED(ChainError, "nothing is overwritten; give another -backupFile, or take that chain over:");
  EXPECT_REFUSED(ChainError, "-inc auto --adopt");
  ask_auto();
  EXPECT_NE(plan().warnings.at(0).find("a chain of the Go tool, and --adopt was not given"), std::string::npos);
}

TEST_F(PlannerWithForeignFiles, Adopt_Never_Takes_A_Chain_Of_Ours_That_Lost_Its_Manifest) {
  have_foreign_chain_up_to(0);
  disk_.chain.was_ours = true;
  disk_.request.adopt = true;
  ask(1);
  EXPECT_REFUSED(NewFullNeeded, "the manifest /backup/drive0.chain.json is missing; put it back, or take a new full");
  ask(-1);
  EXPECT_REFUSED(ChainError,
                 "start anew, what is there moves aside (the manifest /backup/drive0.chain.json is missing)");
}

TEST_F(PlannerWithForeignFiles, Adopt_Continues_A_Foreign_Chain_From_Its_Bitmap) {
  for (const bool automatic : {false, true}) {
    have_foreign_chain_up_to(0);
    disk_.request.adopt = true;
    ask(1);
    if (automatic) {
      ask_auto();
    }
    const DiskPlan plan = disk_plan();
    EXPECT_EQ(plan.pending().level, Level{1});
    EXPECT_EQ(plan.previous_bitmap, kForeignBitmap);
    EXPECT_EQ(plan.pending().bitmap, level_bitmap(kFresh, Level{1}));
    EXPECT_TRUE(plan.pending().adopts);
    EXPECT_EQ(plan.intent.chain, kFresh);
    ASSERT_EQ(plan.intent.levels.size(), 2U);
    EXPECT_EQ(plan.intent.levels[1].file, "drive0.inc0.qcow2");
  }
}

TEST_F(PlannerWithForeignFiles, Adopt_Without_The_Foreign_Bitmap_Needs_A_New_Full) {
  have_foreign_chain_up_to(0);
  node().bitmaps.clear();
  disk_.request.adopt = true;
  ask(1);
  EXPECT_REFUSED(NewFullNeeded, "no bitmap");
  ask_auto();
  EXPECT_EQ(disk_plan().pending().level, kFullLevel);
  EXPECT_FALSE(disk_plan().pending().adopts && disk_plan().pending().archive == std::nullopt);
}

TEST_F(PlannerWithForeignFiles, Adopt_Is_Ignored_Where_The_Chain_Is_Ours_Or_There_Is_None) {
  disk_.request.adopt = true;
  EXPECT_EQ(disk_plan().pending().level, kFullLevel);
  have_chain_up_to(0);
  ask(1);
  EXPECT_FALSE(disk_plan().pending().adopts);
  EXPECT_EQ(disk_plan().pending().chain, kChain);
}

TEST_F(PlannerWithForeignFiles, Adopt_Of_Broken_Files_Needs_A_New_Full_And_Does_Not_Suggest_Itself) {
  have_foreign_chain_up_to(1);
  disk_.chain.files.erase(disk_.chain.files.begin() + 1);
  disk_.request.adopt = true;
  ask(2);
  EXPECT_REFUSED(NewFullNeeded, "drive0.inc0.qcow2 is missing");
  EXPECT_REFUSED(NewFullNeeded, "-inc auto");
  EXPECT_EQ(refusal<NewFullNeeded>().find("--adopt"), std::string::npos);
}

TEST_F(PlannerWithForeignFiles, Auto_With_Adopt_Is_Never_Stuck_On_Broken_Files) {
  have_foreign_chain_up_to(1);
  disk_.chain.files.erase(disk_.chain.files.begin() + 1);
  disk_.request.adopt = true;
  ask_auto();
  ASSERT_NO_THROW(plan());
  const Pending pending = disk_plan().pending();
  EXPECT_EQ(pending.level, kFullLevel);
  EXPECT_FALSE(pending.reason.empty());
  EXPECT_TRUE(pending.archive);
}

}  // namespace
}  // namespace qmpbackup::test
