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
  EXPECT_NE(refused.err.find("it is not that of the files"), std::string::npos) << refused.err;
  EXPECT_TRUE(files_in(elsewhere()) == files);
  const ProgramResult fresh = run_elsewhere("auto");
  expect_succeeds(fresh);
  EXPECT_EQ(fresh.err.find("stays"), std::string::npos) << fresh.err;
  EXPECT_EQ(vm().our_bitmaps(Scene::disk).size(), 2U) << "of the new chain there, and of the one here";
  for (const char* level : {"0", "1"}) {
    expect_succeeds(scene_->backup({"-inc", level}));
    expect_succeeds(run_elsewhere(level));
  }
}

TEST_F(Other_Chains, Chain_That_Moves_To_Where_The_Lock_Of_Another_One_Was_Left_Goes_On) {
  for (const char* checksum : {"--buffered", "--no-checksum"}) {
    scene_->new_chain();
    fs::remove_all(elsewhere());
    fs::create_directory(elsewhere());
    expect_succeeds(run_elsewhere("-1"));
    expect_succeeds(scene_->backup({checksum}));
    for (const char* suffix : {".full.qcow2", ".chain.json", ".sha256"}) {
      const fs::path there = elsewhere() / (std::string("vm1") + suffix);
      fs::remove(there);
      if (fs::exists(file(suffix))) {
        fs::rename(file(suffix), there);
      }
    }
    expect_succeeds(run_elsewhere("0"));
    EXPECT_EQ(vm().our_bitmaps(Scene::disk).size(), 2U) << "that of the chain whose lock it is, too";
  }
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

TEST_F(Other_Chains, Manifest_Of_The_Chain_Before_Keeps_No_Level_From_Being_Restored) {
  expect_succeeds(scene_->backup({}));
  const std::string before = read_file(file(".chain.json"));
  scene_->remove_bitmaps();
  scene_->change_disk(3);
  expect_succeeds(scene_->backup({"-inc", "auto"}));
  scene_->change_disk(3);
  expect_succeeds(scene_->backup({"-inc", "0"}));
  const std::string content = scene_->content();
  write_file(file(".chain.json"), before);
  const fs::path copy = scene_->everything() / "copy";
  const auto restore = [&](const fs::path& base) {
    fs::remove(copy);
    return run_program(tool("restore", "-backupFile", base.string(), "--output", copy.string(), "--format", "raw"));
  };
  expect_succeeds(restore(scene_->base()));
  EXPECT_TRUE(read_file(copy) == content);
  expect_refused(3, "it is not that of the files", {"-inc", "1"});
  expect_succeeds(scene_->backup({"-inc", "auto"}));
  EXPECT_EQ(vm().our_bitmaps(Scene::disk), std::vector<std::string>{bitmap()});
  expect_succeeds(restore(chain_bases(scene_->base()).back()));
  EXPECT_TRUE(read_file(copy) == content) << "from the archive";
}

// Levels carry no chain's id: those of one chain would lie on those of the other.
TEST_F(Other_Chains, Older_Copy_Of_A_Folder_That_Is_Laid_Over_A_Newer_Chain_Restores_As_The_Older_One) {
  for (const char* level : {"-1", "0"}) {
    expect_succeeds(scene_->backup({"-inc", level}));
    scene_->change_disk(3);
  }
  const std::string content = restored_content(file(".inc0.qcow2"));
  fs::copy(scene_->folder(), elsewhere());
  for (const auto& entry : fs::directory_iterator(scene_->folder())) {
    fs::remove_all(entry);
  }
  for (const char* level : {"-1", "0", "1", "2"}) {
    expect_succeeds(scene_->backup({"-inc", level}));
    scene_->change_disk(3);
  }
  fs::copy(elsewhere(), scene_->folder(), fs::copy_options::overwrite_existing | fs::copy_options::recursive);
  const fs::path copy = scene_->everything() / "copy";
  const auto restore = [&](const std::vector<std::string>& more) {
    auto command =
        tool("restore", "-backupFile", scene_->base().string(), "--output", copy.string(), "--format", "raw");
    command.insert(command.end(), more.begin(), more.end());
    return run_program(command);
  };
  for (const std::vector<std::string>& newest : {std::vector<std::string>{}, {"-inc", "1"}}) {
    const ProgramResult refused = restore(newest);
    EXPECT_EQ(refused.exit_code, 1) << refused.err;
    EXPECT_NE(refused.err.find("may be of another chain; the newest level that is good: inc0"), std::string::npos)
        << refused.err;
    EXPECT_FALSE(fs::exists(copy));
  }
  expect_succeeds(restore({"-inc", "0"}));
  EXPECT_TRUE(read_file(copy) == content);
}

TEST_F(Other_Chains, Disk_That_Is_Rolled_Back_Over_Several_Fulls_Keeps_No_Bitmap_Of_Theirs) {
  expect_succeeds(scene_->backup({}));
  vm().stop_cleanly();
  const fs::path image = vm().disk(Scene::disk).image;
  fs::copy_file(image, elsewhere() / "image");
  vm().start();
  for (int full = 0; full < 2; ++full) {
    scene_->remove_bitmaps();
    expect_succeeds(scene_->backup({"-inc", "auto"}));
  }
  vm().stop_cleanly();
  fs::rename(elsewhere() / "image", image);
  vm().start();
  expect_succeeds(scene_->backup({"-inc", "auto"}));
  EXPECT_EQ(vm().our_bitmaps(Scene::disk), std::vector<std::string>{bitmap()});
}

// Level inc1 is taken twice, from one point of the past: the bitmap of the one is not that of the other.
TEST_F(Other_Chains, Folder_From_Before_A_Rollback_Does_Not_Go_On_With_The_Bitmap_From_After_It) {
  for (const bool disk_is_rolled_back : {true, false}) {
    scene_ = std::make_unique<Scene>(crash_seed(), SceneOptions{.disk_bytes = 64 * MiB});
    const auto write = [&](std::uint64_t at) { vm().write(Scene::disk, at, 64 * KiB, 0x31); };
    for (const char* level : {"-1", "0"}) {
      write(MiB);
      expect_succeeds(scene_->backup({"-inc", level}));
    }
    const fs::path image = vm().disk(Scene::disk).image;
    const fs::path old = scene_->everything() / "old";
    vm().stop_cleanly();
    fs::copy_file(image, scene_->everything() / "image");
    fs::copy(scene_->folder(), old);
    vm().start();
    write(10 * MiB);
    const ProgramResult first = scene_->backup({"-inc", "1"}, [&](const Point& point) {
      return !disk_is_rolled_back && point.command == "block-dirty-bitmap-remove" ? scene_->kill_tool(point)
                                                                                  : Verdict::Forward;
    });
    ASSERT_EQ(scene_->levels().size(), 3U) << first.err;
    const fs::path newer = scene_->everything() / "newer";
    fs::rename(scene_->folder(), newer);
    fs::rename(old, scene_->folder());
    if (disk_is_rolled_back) {
      vm().stop_cleanly();
      fs::rename(scene_->everything() / "image", image);
      vm().start();
    }
    write(20 * MiB);
    expect_succeeds(scene_->backup({"-inc", "1"}));
    fs::remove_all(scene_->folder());
    fs::rename(newer, scene_->folder());
    write(30 * MiB);
    expect_refused(3, "shrunk and grown or rolled back", {"-inc", "2"});
    expect_succeeds(scene_->backup({"-inc", "auto"}));
    EXPECT_EQ(scene_->levels(), std::vector<int>{-1});
  }
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
