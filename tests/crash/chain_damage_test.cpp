// What happens to a chain's files between two levels, chains that others made, and QEMUs that can do less.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "crash/changes.hpp"
#include "crash/scene.hpp"
#include "support/images.hpp"

namespace qmpbackup::test {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class Chain_Damage : public Changes {
 protected:
  fs::path file(const std::string& suffix) const { return scene_->base().string() + suffix; }

  void begin_long() {
    begin();
    ASSERT_EQ(scene_->backup({"-inc", "1"}).exit_code, 0);
    scene_->change_disk(3);
  }

  // The new chain is right, and everything of the old one lies in one folder.
  void expect_new_full_with_all_else_moved(const std::string& bitmap_that_stays = "") {
    auto old = files_in(scene_->folder());
    const ProgramResult result = scene_->backup({"-inc", "auto"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(scene_->levels(), std::vector<int>{-1});
    if (!bitmap_that_stays.empty()) {
      forget_old_bitmap(bitmap_that_stays);
    }
    const auto bases = chain_bases(scene_->base());
    ASSERT_EQ(bases.size(), 2U);
    auto moved = files_in(bases[1].parent_path());
    for (const char* rewritten : {"vm1.chain.json", "vm1.sha256"}) {  // without `pending`, for one
      old.erase(rewritten);
      moved.erase(rewritten);
    }
    EXPECT_TRUE(moved == old);
    const fs::path away = scene_->everything() / "away";  // the judge would find the damage there
    fs::rename(bases[1].parent_path(), away);
    aside_ = away / "vm1";
    scene_->known().expect_losses();
    EXPECT_EQ(scene_->recover_and_check(), Violations{});
  }

  void expect_new_full_needed_and_old_files_kept(const std::string& bitmap_that_stays = "") {
    expect_refused(3, "-inc auto", {"-inc", "2"});
    expect_new_full_with_all_else_moved(bitmap_that_stays);
  }

  // Without its manifest nobody knows whose bitmap it is: it may be that of another chain of the disk, and stays.
  void forget_old_bitmap(const std::string& name) {
    vm().control().try_execute("block-dirty-bitmap-remove", {{"node", vm().node_of(Scene::disk)}, {"name", name}});
  }

  fs::path aside_;  // the old chain's base
};

}  // namespace

TEST_F(Chain_Damage, Deleted_Level_Needs_A_New_Full) {
  for (const char* level : {".full.qcow2", ".inc0.qcow2", ".inc1.qcow2"}) {
    begin_long();
    fs::remove(file(level));
    expect_new_full_needed_and_old_files_kept();
  }
}

TEST_F(Chain_Damage, Truncated_Level_Needs_A_New_Full) {
  for (const char* level : {".full.qcow2", ".inc1.qcow2"}) {
    begin_long();
    fs::resize_file(file(level), fs::file_size(file(level)) - 512);
    expect_new_full_needed_and_old_files_kept();
  }
}

TEST_F(Chain_Damage, Swapped_Levels_Need_A_New_Full) {
  begin_long();
  fs::rename(file(".inc0.qcow2"), file(".x"));
  fs::rename(file(".inc1.qcow2"), file(".inc0.qcow2"));
  fs::rename(file(".x"), file(".inc1.qcow2"));
  expect_new_full_needed_and_old_files_kept();
}

TEST_F(Chain_Damage, Lost_Manifest_Needs_A_New_Full_And_The_Levels_Still_Restore) {
  for (const bool lock_is_lost : {false, true}) {
    begin_long();
    const std::string content = restored_content(file(".inc1.qcow2"));
    const std::string old_bitmap = bitmap();
    fs::remove(file(".chain.json"));
    if (lock_is_lost) {
      fs::remove(file(".lock"));
    }
    expect_new_full_needed_and_old_files_kept(lock_is_lost ? old_bitmap : "");
    EXPECT_TRUE(restored_content(aside_.string() + ".inc1.qcow2") == content);
  }
}

TEST_F(Chain_Damage, Damaged_Manifest_Needs_A_New_Full_And_Is_Kept) {
  begin_long();
  const std::string content = restored_content(file(".inc1.qcow2"));
  const std::string manifest = read_file(file(".chain.json"));
  const std::string damaged = manifest.substr(0, manifest.size() / 2);
  write_file(file(".chain.json"), damaged);
  expect_new_full_needed_and_old_files_kept();  // the chain's id can still be read, so that its bitmap goes
  EXPECT_EQ(read_file(aside_.string() + ".chain.json"), damaged);
  EXPECT_TRUE(restored_content(aside_.string() + ".inc1.qcow2") == content);
}

TEST_F(Chain_Damage, Older_Copy_Of_The_Manifest_Is_Refused_And_The_Newest_One_Goes_On) {
  begin();
  const std::string older = read_file(file(".chain.json"));
  scene_->change_disk(3);
  ASSERT_EQ(scene_->backup({"-inc", "1"}).exit_code, 0);
  const std::string newest = read_file(file(".chain.json"));
  write_file(file(".chain.json"), older);
  for (const char* level : {"1", "2"}) {
    expect_refused(3, "put the newest manifest back, or take a new full", {"-inc", level});
  }
  write_file(file(".chain.json"), newest);
  scene_->change_disk(3);
  EXPECT_EQ(scene_->backup({"-inc", "2"}).exit_code, 0);
  EXPECT_EQ(scene_->recover_and_check(), Violations{});
}

TEST_F(Chain_Damage, Level_That_Vanishes_During_An_Incremental_Is_Noticed_Before_The_Commit) {
  begin();
  const ProgramResult refused = scene_->backup({"-inc", "1"}, [&](const Point& point) {
    if (point.command == "blockdev-reopen" && point.moment == Moment::BeforeSending) {
      fs::rename(file(".full.qcow2"), file(".away"));
    }
    return Verdict::Forward;
  });
  EXPECT_EQ(refused.exit_code, 3) << refused.err;
  EXPECT_NE(refused.err.find("vm1.full.qcow2 is gone"), std::string::npos) << refused.err;
  fs::rename(file(".away"), file(".full.qcow2"));
  expect_goes_on();
}

// Whoever asked for that level, and asks for it again, has it.
TEST_F(Chain_Damage, Level_Of_A_Run_That_Was_Killed_After_The_Commit_Is_Complete_When_It_Is_Asked_For_Again) {
  begin();
  const ProgramResult killed = scene_->backup({"-inc", "1"}, [&](const Point& point) {
    return point.command == "job-dismiss" && point.moment == Moment::BeforeSending ? scene_->kill_tool(point)
                                                                                   : Verdict::Forward;
  });
  EXPECT_EQ(killed.signal, SIGKILL);
  const ProgramResult again = scene_->backup({"-inc", "1"});
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_NE(again.out.find("completed from an earlier run"), std::string::npos) << again.out;
  EXPECT_EQ(scene_->check_settled(), Violations{});
  EXPECT_EQ(scene_->backup({"-inc", "1"}).exit_code, 1) << "that run told of it";
}

TEST_F(Chain_Damage, Level_Of_A_Run_That_Was_Killed_After_The_Commit_Is_Not_Complete_When_Its_File_Is_Gone) {
  for (const char* gone : {".full.qcow2", ".inc1.qcow2"}) {
    begin();
    scene_->backup({"-inc", "1"}, [&](const Point& point) {
      return point.command == "job-dismiss" && point.moment == Moment::BeforeSending ? scene_->kill_tool(point)
                                                                                     : Verdict::Forward;
    });
    fs::rename(file(gone), file(".away"));
    EXPECT_NE(scene_->backup({"-inc", "1"}).exit_code, 0) << gone;
    fs::rename(file(".away"), file(gone));
  }
}

// Then another run could hold a lock of the same name.
TEST_F(Chain_Damage, Lock_That_Is_Removed_During_A_Run_Ends_It_And_The_Next_One_Goes_On) {
  for (const char* command : {"query-jobs", "blockdev-reopen", "blockdev-del"}) {
    begin();
    const ProgramResult ended = scene_->backup({"-inc", "1"}, [&](const Point& point) {
      if (point.command == command && point.moment == Moment::Answered) {
        fs::remove(file(".lock"));
      }
      return Verdict::Forward;
    });
    EXPECT_EQ(ended.exit_code, 5) << ended.err;
    EXPECT_NE(ended.err.find("was removed or replaced"), std::string::npos) << ended.err;
    EXPECT_EQ(scene_->recover_and_check(), Violations{});
  }
}

// The chain goes on elsewhere: what it needs is not the copy's to clear away, whatever the copy thinks is under way.
TEST_F(Chain_Damage, Older_Copy_Of_The_Folder_Is_Refused_And_The_Chain_Itself_Goes_On) {
  for (const bool copied_during_a_run : {false, true}) {
    for (const int newer_levels : {1, 2}) {
      begin();
      const fs::path copy = scene_->everything() / "copy";
      fs::remove_all(copy);
      if (copied_during_a_run) {
        scene_->backup({"-inc", "1"}, [&](const Point& point) {
          if (point.command != "query-jobs" || point.moment != Moment::BeforeSending || fs::exists(copy) ||
              !scene_->manifest().contains("pending")) {
            return Verdict::Forward;
          }
          fs::copy(scene_->folder(), copy);
          return Verdict::Forward;
        });
        ASSERT_TRUE(read_manifest(copy / "vm1").contains("pending"));
      } else {
        fs::copy(scene_->folder(), copy);
        ASSERT_EQ(scene_->backup({"-inc", "1"}).exit_code, 0);
      }
      if (newer_levels == 2) {
        scene_->change_disk(3);
        ASSERT_EQ(scene_->backup({"-inc", "2"}).exit_code, 0);
      }
      scene_->change_disk(3);
      auto command = scene_->command({"-inc", "1"});
      *std::find(command.begin(), command.end(), scene_->base().string()) = (copy / "vm1").string();
      const ProgramResult refused = run_program(command);
      EXPECT_EQ(refused.exit_code, 3) << refused.err;
      EXPECT_NE(refused.err.find("this is an older copy of the chain"), std::string::npos) << refused.err;
      const std::string next = std::to_string(newer_levels + 1);
      EXPECT_EQ(scene_->backup({"-inc", next}).exit_code, 0) << scene_->last_words();
      EXPECT_EQ(scene_->recover_and_check(), Violations{});
    }
  }
}

TEST_F(Chain_Damage, Folder_In_The_Place_Of_The_Manifest_Comes_Back_When_The_New_Full_Fails) {
  begin_long();
  fs::remove(file(".chain.json"));
  fs::create_directory(file(".chain.json"));
  const ProgramResult failed = scene_->backup({"-inc", "auto"}, [](const Point& point) {
    return point.command == "add-fd" && point.moment == Moment::BeforeSending ? Verdict::CloseClient : Verdict::Forward;
  });
  EXPECT_EQ(failed.exit_code, 4) << failed.err;
  EXPECT_TRUE(fs::is_directory(file(".chain.json")));
  const ProgramResult result = scene_->backup({"-inc", "auto"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(scene_->levels(), std::vector<int>{-1});
  fs::remove_all(chain_bases(scene_->base()).back().parent_path());  // the judge takes no folder for a manifest
  scene_->known().expect_losses();
}

TEST_F(Chain_Damage, Manifest_Of_A_Newer_Format_Is_Refused_And_Left_Alone) {
  begin();
  const std::string manifest = read_file(file(".chain.json"));
  write_file(file(".chain.json"), R"({"format": 99, "levels": "in a way nobody knows yet"})");
  for (const char* level : {"1", "auto"}) {
    expect_refused(1, "format 99", {"-inc", level});
  }
  write_file(file(".chain.json"), manifest);
  expect_goes_on();
}

TEST_F(Chain_Damage, Chain_Of_The_Go_Tool_Is_Taken_Over) {
  scene_ = std::make_unique<Scene>(crash_seed());
  vm().control().execute("block-dirty-bitmap-add",
                         {{"node", vm().node_of(Scene::disk)}, {"name", "bitmap0"}, {"persistent", true}});
  const fs::path content = vm().disk_content(Scene::disk);
  run_checked({"qemu-img", "convert", "-O", "qcow2", content, file(".full.qcow2")});
  scene_->known().remember("bitmap0", scene_->content());
  scene_->change_disk(5);
  expect_refused(3, "--adopt", {"-inc", "0"});
  const ProgramResult result = scene_->backup({"-inc", "0", "--adopt"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(scene_->check_settled(), Violations{});
  expect_archives(scene_->recover_and_check(), 0);
}

// The level is committed; only the bitmap that it was made from is left, which carries no name of ours.
TEST_F(Chain_Damage, Chain_Of_The_Go_Tool_Is_Taken_Over_By_A_Run_That_Is_Killed_When_It_Cleans_Up) {
  scene_ = std::make_unique<Scene>(crash_seed());
  const auto add_bitmap0 = [&] {
    vm().control().execute("block-dirty-bitmap-add",
                           {{"node", vm().node_of(Scene::disk)}, {"name", "bitmap0"}, {"persistent", true}});
  };
  const auto has_bitmap0 = [&] {
    return std::ranges::any_of(vm().bitmaps(Scene::disk),
                               [](const auto& bitmap) { return bitmap.value("name", "") == "bitmap0"; });
  };
  add_bitmap0();
  run_checked({"qemu-img", "convert", "-O", "qcow2", vm().disk_content(Scene::disk), file(".full.qcow2")});
  scene_->known().remember("bitmap0", scene_->content());
  const ProgramResult killed = scene_->backup({"-inc", "0", "--adopt"}, [&](const Point& point) {
    return point.command.starts_with("block-dirty-bitmap-remove") && point.moment == Moment::BeforeSending
               ? scene_->kill_tool(point)
               : Verdict::Forward;
  });
  EXPECT_EQ(killed.signal, SIGKILL);
  EXPECT_TRUE(has_bitmap0());
  const ProgramResult next = scene_->backup({"-inc", "1"});
  EXPECT_EQ(next.exit_code, 0) << next.err;
  EXPECT_FALSE(has_bitmap0());
  add_bitmap0();
  EXPECT_EQ(scene_->backup({"-inc", "2"}).exit_code, 0);
  EXPECT_TRUE(has_bitmap0()) << "this one is not ours";
  vm().control().execute("block-dirty-bitmap-remove", {{"node", vm().node_of(Scene::disk)}, {"name", "bitmap0"}});
}

// The bitmap of that program is lost with QEMU; the run's own was stored, and nobody else can need it.
TEST_F(Chain_Damage, Chain_Of_The_Go_Tool_Whose_Takeover_Ended_With_QEMU_Leaves_No_Bitmap) {
  scene_ = std::make_unique<Scene>(crash_seed());
  vm().control().execute("block-dirty-bitmap-add", {{"node", vm().node_of(Scene::disk)}, {"name", "bitmap0"}});
  run_checked({"qemu-img", "convert", "-O", "qcow2", vm().disk_content(Scene::disk), file(".full.qcow2")});
  scene_->known().remember("bitmap0", scene_->content());
  const ProgramResult ended = scene_->backup({"-inc", "0", "--adopt"}, [&](const Point& point) {
    return point.command == "blockdev-reopen" && point.moment == Moment::BeforeSending
               ? scene_->end_qemu(SIGTERM, false)
               : Verdict::Forward;
  });
  EXPECT_EQ(ended.exit_code, 4) << ended.err;
  scene_->start_again();
  EXPECT_EQ(vm().our_bitmaps(Scene::disk).size(), 1U) << "the run's own, stored";
  const ProgramResult next = scene_->backup({"-inc", "auto", "--adopt"});
  EXPECT_EQ(next.exit_code, 0) << next.err;
  EXPECT_EQ(vm().our_bitmaps(Scene::disk), std::vector<std::string>{bitmap()});
  fs::remove_all(chain_bases(scene_->base()).back().parent_path());  // the judge knows no chain of that program
  scene_->known().expect_losses();
}

TEST_F(Chain_Damage, Without_Reopen_It_Warns_And_Works) {
  begin();
  scene_->hide_from_schema({"blockdev-reopen"});
  const ProgramResult result = scene_->backup({"-inc", "1"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.err.find("warning"), std::string::npos) << result.err;
  expect_archives(scene_->recover_and_check(), 0);
}

TEST_F(Chain_Damage, Without_Bitmap_Mode_It_Is_Refused) {
  begin();
  scene_->hide_from_schema({"bitmap-mode"});
  for (const char* level : {"1", "auto"}) {
    expect_refused(1, "QEMU 4.2", {"-inc", level});
  }
  scene_->hide_from_schema({});
  expect_goes_on();
}

TEST_F(Chain_Damage, Without_Zstd_It_Takes_Zlib) {
  begin();
  scene_->hide_from_schema({"zstd"});
  expect_refused(1, "zlib", {"-inc", "1", "--compress", "zstd"});
  expect_goes_on();
  EXPECT_EQ(scene_->manifest().at("levels").back().at("compression"), "zlib");
}

TEST_F(Chain_Damage, Without_The_Human_Monitor_It_Works_Unmarked) {
  begin();
  scene_->hide_from_schema({"human-monitor-command"});
  expect_goes_on();
  EXPECT_EQ(scene_->manifest().at("levels").back().at("marks"), 0);
}

TEST_F(Chain_Damage, Without_Descriptors_It_Works_By_Path) {
  begin();
  scene_->hide_from_schema({"add-fd"});
  expect_goes_on();
}

}  // namespace qmpbackup::test
