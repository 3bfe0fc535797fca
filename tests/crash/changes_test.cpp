// What happens to a disk, its bitmap or its chain between two levels: the chain goes on, or an explicit level is
// refused with exit code 3 before anything is changed, and `auto` takes a new full.
#include "crash/changes.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>

#include "crash/scene.hpp"
#include "support/images.hpp"
#include "support/requirements.hpp"

namespace qmpbackup::test {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

}  // namespace

TEST_F(Changes, Grown_Qcow2_Goes_On) {
  begin();
  scene_->resize(6 * MiB + 512);
  vm().write(Scene::disk, 5 * MiB, 64 * KiB, 9);
  expect_goes_on();
}

// Shrinking leaves what the rest of the last cluster held, growing shows it again, and no bitmap knows.
TEST_F(Changes, Grown_Qcow2_Whose_Last_Cluster_Holds_Old_Data_Loses_Nothing) {
  for (const char* options : {"cluster_size=2M", "cluster_size=64k", "cluster_size=4k"}) {
    for (const std::uint64_t old_end : {2 * MiB + 65 * KiB, 2 * MiB + 512}) {
      SCOPED_TRACE(fmt::format("{}, {}", options, old_end));
      scene_ = std::make_unique<Scene>(crash_seed(), SceneOptions{.image_options = options});
      vm().write(Scene::disk, 0, 4 * MiB, 0x7a);
      scene_->resize(old_end);
      for (const std::uint64_t size : {old_end, 6 * MiB}) {
        scene_->resize(size);
        EXPECT_EQ(scene_->backup({"-inc", "auto"}).exit_code, 0) << scene_->last_words();
        EXPECT_EQ(scene_->check_settled(), Violations{});
      }
      EXPECT_EQ(chain_bases(scene_->base()).size(), options == std::string("cluster_size=2M") ? 2U : 1U);
    }
  }
}

TEST_F(Changes, Grown_Raw_Needs_A_New_Full) {
  begin({.format = "raw"});
  scene_->resize(6 * MiB);
  expect_new_full_needed();
}

TEST_F(Changes, Shrunk_Needs_A_New_Full) {
  begin();
  scene_->resize(2 * MiB);
  expect_new_full_needed();
}

TEST_F(Changes, Shrunk_And_Grown_Needs_A_New_Full) {
  begin();
  scene_->resize(2 * MiB);
  scene_->resize(4 * MiB);
  expect_new_full_needed();
}

TEST_F(Changes, Shrunk_And_Grown_Beyond_Needs_A_New_Full) {
  begin();
  scene_->resize(2 * MiB);
  scene_->resize(8 * MiB);
  expect_new_full_needed();
}

TEST_F(Changes, Shrunk_And_Grown_Needs_A_New_Full_Though_The_Guest_Writes_The_End) {
  begin();
  scene_->resize(2 * MiB);
  scene_->resize(4 * MiB);
  vm().write(Scene::disk, 4 * MiB - 512, 512, 9);
  expect_new_full_needed();
}

// A partition tool does that: it puts the backup table of a GPT at the new end.
TEST_F(Changes, Shrunk_A_Little_And_Grown_Needs_A_New_Full_Though_The_Guest_Writes_The_End) {
  begin();
  vm().write(Scene::disk, 3 * MiB, MiB, 5);
  ASSERT_EQ(scene_->backup({"-inc", "1"}).exit_code, 0);
  scene_->resize(4 * MiB - 512 * KiB);
  scene_->resize(4 * MiB);
  vm().write(Scene::disk, 4 * MiB - 512, 512, 9);
  EXPECT_EQ(scene_->recover_and_check(), Violations{});
}

TEST_F(Changes, Shrunk_And_Grown_Needs_A_New_Full_Though_The_Guest_Writes_Much_Of_It) {
  begin();
  scene_->resize(2 * MiB);
  scene_->resize(4 * MiB);
  vm().write(Scene::disk, 4 * MiB - 128 * KiB, 128 * KiB, 9);
  vm().write(Scene::disk, 3 * MiB - 64 * KiB, 64 * KiB, 9);
  expect_new_full_needed();
}

// Where the cut began at a quarter of a power of two MiB before the end, its first granule is a mark.
TEST_F(Changes, Shrunk_And_Grown_Needs_A_New_Full_Though_The_Guest_Writes_Nearly_All_Of_It) {
  for (const std::uint64_t cut : {2 * MiB, MiB + 256 * KiB, 3 * MiB + 512 * KiB}) {
    begin();
    scene_->resize(4 * MiB - cut);
    scene_->resize(4 * MiB);
    vm().write(Scene::disk, 4 * MiB - cut + 64 * KiB, cut - 64 * KiB, 9);
    expect_new_full_needed();
  }
}

// All of what is cut off lies in marks: missing or copied.
TEST_F(Changes, Shrunk_By_Less_Than_A_MiB_And_Grown_Loses_Nothing_Whatever_The_Guest_Writes) {
  begin();
  scene_->resize(4 * MiB - 256 * KiB);
  scene_->resize(4 * MiB);
  vm().write(Scene::disk, 4 * MiB - 128 * KiB, 128 * KiB, 9);
  expect_refused(3, "-inc auto");
  EXPECT_EQ(scene_->recover_and_check(), Violations{}) << "a full, or all of it renewed and copied";
}

TEST_F(Changes, Shrunk_And_Grown_While_The_Backup_Begins_Commits_Nothing) {
  for (const bool clear : {false, true}) {
    begin();
    expect_refused_while_it_begins("while the backup began", [&] {
      if (clear) {
        bitmap_command("block-dirty-bitmap-clear");
      } else {
        scene_->resize(2 * MiB);
        scene_->resize(4 * MiB);
      }
    });
    expect_new_full_needed();
  }
}

// Only the marks that the dead run had copied tell it.
TEST_F(Changes, Shrunk_And_Grown_While_A_Backup_Begins_That_Is_Killed_Then_Is_Taken_Back) {
  begin();
  vm().write(Scene::disk, 2 * MiB, MiB, 5);
  ASSERT_EQ(scene_->backup({"-inc", "1"}).exit_code, 0);
  bool changed = false;
  const ProgramResult killed = scene_->backup({"-inc", "auto"}, [&](const Point& point) {
    if (!changed && point.command == "add-fd" && point.moment == Moment::BeforeSending) {
      changed = true;
      scene_->resize(2 * MiB);
      scene_->resize(4 * MiB);
    }
    return changed && point.command == "transaction" && point.moment == Moment::Answered ? scene_->kill_tool(point)
                                                                                         : Verdict::Forward;
  });
  EXPECT_EQ(killed.signal, SIGKILL);
  expect_archives(scene_->recover_and_check(), 1);
}

TEST_F(Changes, Grown_While_The_Backup_Begins_Commits_Nothing_And_Goes_On) {
  begin();
  expect_refused_while_it_begins("was the disk resized", [&] { scene_->resize(6 * MiB); });
  expect_goes_on();
}

// The guest may renew the marks before the new full is complete; nothing but the bitmap's absence tells then.
TEST_F(Changes, Shrunk_And_Grown_Is_Not_Forgotten_When_The_New_Full_Fails) {
  begin();
  vm().write(Scene::disk, 2 * MiB, MiB, 5);
  ASSERT_EQ(scene_->backup({"-inc", "1"}).exit_code, 0);
  scene_->resize(2 * MiB);
  scene_->resize(4 * MiB);
  const ProgramResult failed = scene_->backup({"-inc", "auto"}, [&](const Point& point) {
    return point.command == "add-fd" && point.moment == Moment::AfterSending ? scene_->kill_tool(point)
                                                                             : Verdict::Forward;
  });
  EXPECT_EQ(failed.exit_code, 128 + SIGKILL);
  vm().write(Scene::disk, 3 * MiB, MiB, 9);  // all marks in what was cut off
  vm().write(Scene::disk, 2 * MiB, 64 * KiB, 9);
  expect_archives(scene_->recover_and_check(), 1);
}

TEST_F(Changes, Shrunk_And_Grown_Needs_A_New_Full_Across_A_Restart) {
  begin();
  scene_->resize(2 * MiB);
  scene_->resize(4 * MiB);
  vm().restart();
  expect_new_full_needed();
}

TEST_F(Changes, External_Snapshot_Needs_A_New_Full) {
  begin();
  const fs::path overlay = scene_->everything() / "overlay.qcow2";
  vm().control().execute("blockdev-snapshot-sync", {{"device", Scene::disk}, {"snapshot-file", overlay.string()}});
  vm().disk(Scene::disk).image = overlay;
  scene_->change_disk(3);
  expect_refused(3, "-inc auto");
  const ProgramResult result = scene_->backup({"-inc", "auto"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  expect_archives(scene_->check_settled(), 1);
}

// The guest writes to the overlay from then on, and the backup would read the node below it.
TEST_F(Changes, External_Snapshot_While_The_Backup_Begins_Commits_Nothing) {
  begin();
  const fs::path overlay = scene_->everything() / "overlay.qcow2";
  expect_refused_while_it_begins("a snapshot was taken while the backup began", [&] {
    vm().control().execute("blockdev-snapshot-sync", {{"device", Scene::disk}, {"snapshot-file", overlay.string()}});
    vm().disk(Scene::disk).image = overlay;
    vm().write(Scene::disk, MiB, 64 * KiB, 9);
  });
  EXPECT_EQ(scene_->levels(), (std::vector{-1, 0}));
  EXPECT_EQ(scene_->backup({"-inc", "auto"}).exit_code, 0) << scene_->last_words();
  expect_archives(scene_->check_settled(), 1);
}

TEST_F(Changes, Snapshot_That_Was_Committed_Goes_On) {
  begin();
  const fs::path image = vm().disk(Scene::disk).image;
  const fs::path overlay = scene_->everything() / "overlay.qcow2";
  vm().control().execute("blockdev-snapshot-sync", {{"device", Scene::disk}, {"snapshot-file", overlay.string()}});
  scene_->change_disk(10);
  const json commit{{"device", Scene::disk}, {"job-id", "commit0"}};
  vm().control().execute("block-commit", commit);
  vm().control().wait_event("BLOCK_JOB_READY");
  vm().control().execute("block-job-complete", {{"device", "commit0"}});
  vm().control().wait_event("BLOCK_JOB_COMPLETED");
  vm().disk(Scene::disk).image = image;
  expect_goes_on();
}

TEST_F(Changes, Hot_Plugged_Disk_Is_Backed_Up) {
  begin({.extra_arguments = {"-device", "pcie-root-port,id=port1,chassis=1"}});
  const fs::path image = scene_->everything() / "hot.qcow2";
  make_image(image, "qcow2", 2 * MiB);
  vm().control().execute(
      "blockdev-add",
      {{"driver", "qcow2"}, {"node-name", "hot"}, {"file", {{"driver", "file"}, {"filename", image.string()}}}});
  vm().control().execute("device_add",
                         {{"driver", "virtio-blk-pci"}, {"id", "hot-dev"}, {"drive", "hot"}, {"bus", "port1"}});
  const auto base = (scene_->everything() / "hot").string();
  for (const char* level : {"-1", "0"}) {
    const ProgramResult result = run_program(
        tool("-socket", vm().socket().string(), "-backupFile", base, "-deviceToBackup", "hot-dev", "-inc", level));
    EXPECT_EQ(result.exit_code, 0) << result.err;
  }
  EXPECT_EQ(restored_content(base + ".inc0.qcow2"), std::string(2 * MiB, '\0'));
  vm().control().execute("block-dirty-bitmap-remove",
                         {{"node", "hot"}, {"name", read_manifest(base).at("levels").back().at("bitmap")}});
  expect_goes_on();
}

TEST_F(Changes, Missing_Bitmap_Needs_A_New_Full) {
  begin();
  scene_->remove_bitmaps();
  expect_new_full_needed();
}

TEST_F(Changes, Inconsistent_Bitmap_Needs_A_New_Full) {
  begin();
  vm().restart();
  vm().kill();
  vm().start();
  ASSERT_TRUE(vm().bitmaps(Scene::disk).at(0).value("inconsistent", false));
  expect_new_full_needed();
}

TEST_F(Changes, Transient_Bitmap_Is_Lost_With_Qemu) {
  begin({.format = "raw"});
  vm().restart();
  expect_new_full_needed();
}

TEST_F(Changes, Disabled_Bitmap_Needs_A_New_Full) {
  begin();
  bitmap_command("block-dirty-bitmap-disable");
  expect_new_full_needed();
}

TEST_F(Changes, Cleared_Bitmap_Needs_A_New_Full) {
  begin();
  bitmap_command("block-dirty-bitmap-clear");
  expect_new_full_needed();
}

TEST_F(Changes, Cleared_Bitmap_Needs_A_New_Full_Though_The_Guest_Writes_The_End) {
  begin();
  bitmap_command("block-dirty-bitmap-clear");
  vm().write(Scene::disk, 4 * MiB - 512, 512, 9);
  expect_new_full_needed();
}

// The image was copied between the attempt that QEMU's end stored and the one that was committed: what the guest wrote
// between the two is in neither the copy's bitmap nor in what a level on top of it would hold.
TEST_F(Changes, Disk_Rolled_Back_To_The_Bitmap_Of_An_Attempt_That_Was_Taken_Back_Needs_A_New_Full) {
  begin();
  const std::filesystem::path image = vm().disk(Scene::disk).image;
  const std::filesystem::path copy = image.string() + ".copy";
  const ProgramResult ended = scene_->backup({"-inc", "1"}, [&](const Point& point) {
    return point.command == "blockdev-reopen" && point.moment == Moment::BeforeSending
               ? scene_->end_qemu(SIGTERM, false)
               : Verdict::Forward;
  });
  ASSERT_EQ(ended.exit_code, 4) << ended.err;
  std::filesystem::copy_file(image, copy);
  scene_->start_again();
  scene_->change_disk(5);
  ASSERT_EQ(scene_->backup({"-inc", "1"}).exit_code, 0) << scene_->last_words();
  EXPECT_EQ(vm().bitmaps(Scene::disk).at(0).at("granularity"), 128 * KiB);
  vm().stop_cleanly();
  std::filesystem::rename(copy, image);
  vm().start();
  ASSERT_EQ(vm().our_bitmaps(Scene::disk).size(), 2U) << "of inc0, and of the first attempt at inc1";
  const ProgramResult refused = scene_->backup({"-inc", "2"});
  EXPECT_EQ(refused.exit_code, 3) << refused.err;
  EXPECT_NE(refused.err.find("of an earlier attempt"), std::string::npos) << refused.err;
  EXPECT_EQ(scene_->backup({"-inc", "auto"}).exit_code, 0);
  EXPECT_EQ(scene_->check_settled(), Violations{});
  expect_archives(scene_->recover_and_check(1), 1);
}

// The operator's own backup job may use the bitmap of our chain; when it is over, the chain goes on.
TEST_F(Changes, Busy_Bitmap_Is_Refused_And_Goes_On_When_It_Is_Free) {
  begin();
  vm().control().execute("blockdev-add", {{"driver", "null-co"}, {"node-name", "nowhere"}, {"size", 4 * MiB}});
  vm().control().execute("blockdev-backup", {{"job-id", "theirs"},
                                             {"device", vm().node_of(Scene::disk)},
                                             {"target", "nowhere"},
                                             {"sync", "bitmap"},
                                             {"bitmap", bitmap()},
                                             {"bitmap-mode", "never"},
                                             {"speed", 1}});
  for (const char* level : {"1", "auto"}) {
    expect_refused(1, "try again", {"-inc", level});
  }
  vm().control().execute("job-cancel", {{"id", "theirs"}});
  vm().control().wait_event("BLOCK_JOB_CANCELLED");
  vm().control().execute("blockdev-del", {{"node-name", "nowhere"}});
  expect_goes_on();
}

}  // namespace qmpbackup::test
