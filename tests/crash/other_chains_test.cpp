// Two chains of one disk, or two copies of one chain: a run on one takes nothing away that the other one needs.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "crash/changes.hpp"
#include "crash/scene.hpp"
#include "support/images.hpp"

namespace qmpbackup::test {

namespace {

namespace fs = std::filesystem;

class Other_Chains : public Changes {
 protected:
  void SetUp() override {
    Changes::SetUp();
    if (!IsSkipped() && !HasFatalFailure()) {
      scene_ = std::make_unique<Scene>(crash_seed());
      fs::create_directory(elsewhere());
    }
  }
  void TearDown() override {}  // there may be bitmaps of two chains

  fs::path file(const std::string& suffix) const { return scene_->base().string() + suffix; }
  fs::path elsewhere() const { return scene_->everything() / "elsewhere"; }

  ProgramResult run_elsewhere(const std::string& level) {
    auto command = scene_->command({"-inc", level, "--compress", "none"});
    *std::find(command.begin(), command.end(), scene_->base().string()) = (elsewhere() / "vm1").string();
    return run_program(command);
  }
  void expect_succeeds(const ProgramResult& result) { EXPECT_EQ(result.exit_code, 0) << result.err; }
  void expect_needs_new_full(const ProgramResult& result) { EXPECT_EQ(result.exit_code, 3) << result.err; }

  // Takes a first full that is killed after the file step with which it is committed.
  void take_full_that_dies_with_its_commit() {
    for (int step = 10;; ++step) {
      scene_->new_chain();
      scene_->set_environment({{"LD_PRELOAD", QMPBACKUP_KILL_SHIM},
                               {"QMPBACKUP_KILL_STEP", std::to_string(step)},
                               {"QMPBACKUP_KILL_WHEN", "after"}});
      ASSERT_EQ(scene_->backup({}).signal, SIGKILL);
      scene_->set_environment({});
      Scene::count_fault();
      if (!scene_->levels().empty()) {
        ASSERT_FALSE(scene_->manifest().contains("pending"));
        return;
      }
    }
  }

  // A meddling that copies something at the level's flush.
  Scene::Meddling at_the_flush(const std::function<void()>& copy) {
    return [=](const Point& point) {
      if (point.command == "blockdev-reopen" && point.moment == Moment::BeforeSending) {
        copy();
      }
      return Verdict::Forward;
    };
  }
};

}  // namespace

TEST_F(Other_Chains, Chain_That_Was_Moved_After_A_Kill_At_Its_Commit_Goes_On) {
  ASSERT_NO_FATAL_FAILURE(take_full_that_dies_with_its_commit());
  for (const char* suffix : {".full.qcow2", ".chain.json"}) {  // the lock stays behind
    fs::rename(file(suffix), elsewhere() / (std::string("vm1") + suffix));
  }
  expect_succeeds(run_elsewhere("0"));
  expect_succeeds(scene_->backup({}));
  expect_succeeds(run_elsewhere("1"));
}

TEST_F(Other_Chains, Refusal_Without_The_Manifest_Takes_Nothing_Away_After_A_Kill_At_The_Commit) {
  ASSERT_NO_FATAL_FAILURE(take_full_that_dies_with_its_commit());
  const fs::path away = elsewhere() / "manifest";
  fs::rename(file(".chain.json"), away);
  expect_needs_new_full(scene_->backup({"-inc", "0"}));
  fs::rename(away, file(".chain.json"));
  expect_succeeds(scene_->backup({"-inc", "0"}));
}

// Their files may even have the same sizes.
TEST_F(Other_Chains, Manifest_Of_Another_Chain_Is_Not_Taken_For_That_Of_The_Files) {
  vm().write(Scene::disk, 0, 64 * KiB, 0x5a);
  expect_succeeds(run_elsewhere("-1"));
  vm().write(Scene::disk, 0, 64 * KiB, 0x5b);
  expect_succeeds(scene_->backup({"--compress", "none"}));
  ASSERT_EQ(fs::file_size(file(".full.qcow2")), fs::file_size(elsewhere() / "vm1.full.qcow2"));
  fs::copy_file(file(".chain.json"), elsewhere() / "vm1.chain.json", fs::copy_options::overwrite_existing);
  const auto files = files_in(elsewhere());
  const ProgramResult refused = run_elsewhere("0");
  expect_needs_new_full(refused);
  EXPECT_NE(refused.err.find("it is that of another chain than the files"), std::string::npos) << refused.err;
  EXPECT_TRUE(files_in(elsewhere()) == files);
  const ProgramResult fresh = run_elsewhere("auto");
  expect_succeeds(fresh);
  EXPECT_EQ(fresh.err.find("stays"), std::string::npos) << fresh.err;
  EXPECT_EQ(vm().our_bitmaps(Scene::disk).size(), 2U) << "of the new chain there, and of the one here";
  expect_succeeds(scene_->backup({"-inc", "0"}));
  expect_succeeds(run_elsewhere("0"));
}

TEST_F(Other_Chains, Chain_That_Moves_To_Where_The_Lock_Of_Another_One_Was_Left_Goes_On) {
  expect_succeeds(run_elsewhere("-1"));
  expect_succeeds(scene_->backup({}));
  const fs::path away = scene_->everything() / "away";
  fs::create_directory(away);
  for (const char* suffix : {".full.qcow2", ".chain.json", ".sha256"}) {
    const std::string name = std::string("vm1") + suffix;
    fs::rename(elsewhere() / name, away / name);
    fs::rename(file(suffix), elsewhere() / name);
  }
  expect_succeeds(run_elsewhere("0"));
  EXPECT_EQ(vm().our_bitmaps(Scene::disk).size(), 2U) << "that of the chain that is away, too";
}

TEST_F(Other_Chains, Copy_Of_A_Folder_With_A_Full_Under_Way_Takes_Nothing_From_The_Chain) {
  for (const bool first : {true, false}) {
    scene_->new_chain();
    if (!first) {
      expect_succeeds(scene_->backup({}));
      scene_->remove_bitmaps();
    }
    fs::remove_all(elsewhere());
    expect_succeeds(scene_->backup({"-inc", "auto"}, at_the_flush([&] { fs::copy(scene_->folder(), elsewhere()); })));
    ASSERT_TRUE(read_manifest(elsewhere() / "vm1").contains("pending"));
    expect_succeeds(scene_->backup({"-inc", "0"}));
    EXPECT_NE(run_elsewhere("7").exit_code, 0);
    expect_succeeds(scene_->backup({"-inc", "1"}));
  }
}

TEST_F(Other_Chains, Older_Manifest_With_A_Full_Under_Way_Takes_Nothing_From_The_Newest_One) {
  expect_succeeds(scene_->backup({}));
  scene_->remove_bitmaps();
  std::string older;
  expect_succeeds(scene_->backup({"-inc", "auto"}, at_the_flush([&] { older = read_file(file(".chain.json")); })));
  expect_succeeds(scene_->backup({"-inc", "0"}));
  const std::string newest = read_file(file(".chain.json"));
  write_file(file(".chain.json"), older);
  EXPECT_NE(scene_->backup({"-inc", "1"}).exit_code, 0);
  write_file(file(".chain.json"), newest);
  expect_succeeds(scene_->backup({"-inc", "1"}));
}

// Below a snapshot nothing can be removed: later, then.
TEST_F(Other_Chains, Bitmap_Of_A_Killed_Full_Below_A_Snapshot_Goes_When_That_Is_Committed) {
  scene_->backup({}, [&](const Point& point) {
    return point.command == "blockdev-reopen" ? scene_->kill_tool(point) : Verdict::Forward;
  });
  vm().restart();
  const fs::path image = vm().disk(Scene::disk).image;
  vm().control().execute(
      "blockdev-snapshot-sync",
      {{"device", Scene::disk}, {"snapshot-file", (scene_->everything() / "overlay.qcow2").string()}});
  expect_succeeds(scene_->backup({"-inc", "auto"}));
  vm().control().execute("block-commit", {{"device", Scene::disk}, {"job-id", "commit0"}});
  vm().control().wait_event("BLOCK_JOB_READY");
  vm().control().execute("block-job-complete", {{"device", "commit0"}});
  vm().control().wait_event("BLOCK_JOB_COMPLETED");
  vm().disk(Scene::disk).image = image;
  expect_succeeds(scene_->backup({"-inc", "auto"}));
  EXPECT_EQ(vm().our_bitmaps(Scene::disk), std::vector<std::string>{bitmap()});
}

}  // namespace qmpbackup::test
