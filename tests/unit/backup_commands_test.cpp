// What a plan sends to QEMU, in which order, and how it is written.
#include <algorithm>
#include <set>

#include "qmpbackup/bitmap_marks.hpp"
#include "qmpbackup/level_bitmap.hpp"

#include "unit/planner_fixture.hpp"

namespace qmpbackup::test {
namespace {

using nlohmann::json;

std::vector<std::string> names_of(const std::vector<QmpCommand>& commands) {
  std::vector<std::string> names;
  for (const QmpCommand& command : commands) {
    names.push_back(command.name);
  }
  return names;
}

class CommandsTest : public PlannerTest {
 protected:
  json actions() const { return start_backup(plan().disks).arguments.at("actions"); }
  json backup_action() const { return actions().back().at("data"); }
  ImageFormat image() const { return image_format(disk_plan()); }
};

TEST_F(CommandsTest, Of_An_Incremental_Are_Exactly_These) {
  have_chain_up_to(0);
  ask(1);
  vm_.features.human_monitor = false;
  EXPECT_EQ(to_json(add_descriptor(disk_plan())), json::parse(R"({"execute": "add-fd", "arguments": {"fdset-id": 77,
    "opaque": "qmpbackup-0b3c6f52-1d2e-4f60-8a9b-0123456789ab-target"}})"));
  EXPECT_EQ(to_json(add_file_node(disk_plan())), json::parse(R"({"execute": "blockdev-add", "arguments": {
    "driver": "file", "node-name": "qmpbackup-0123456789ab-file", "filename": "/dev/fdset/77",
    "cache": {"direct": true, "no-flush": false}}})"));
  EXPECT_EQ(to_json(add_target(disk_plan().pending())), json::parse(R"({"execute": "blockdev-add", "arguments": {
    "driver": "qcow2", "node-name": "qmpbackup-0123456789ab-target", "file": "qmpbackup-0123456789ab-file",
    "backing": null}})"));
  EXPECT_EQ(actions(), json::parse(R"([
    {"type": "block-dirty-bitmap-add", "data": {"node": "#block1", "persistent": true, "granularity": 65536,
     "name": "qmpbackup-0b3c6f52-1d2e-4f60-8a9b-0123456789ab-inc1"}},
    {"type": "blockdev-backup", "data": {"job-id": "qmpbackup-0b3c6f52-1d2e-4f60-8a9b-0123456789ab-inc1",
     "device": "#block1", "target": "qmpbackup-0123456789ab-target", "sync": "bitmap",
     "bitmap": "qmpbackup-0b3c6f52-1d2e-4f60-8a9b-0123456789ab-inc0", "bitmap-mode": "never",
     "auto-dismiss": false, "compress": true, "on-source-error": "report", "on-target-error": "report"}}])"));
  EXPECT_EQ(to_json(reopen_read_only(disk_plan().pending())), json::parse(R"({"execute": "blockdev-reopen",
    "arguments": {"options": [{"driver": "qcow2", "node-name": "qmpbackup-0123456789ab-target",
    "file": "qmpbackup-0123456789ab-file", "backing": null, "read-only": true}]}})"));
}

TEST_F(CommandsTest, Of_A_Full_Read_The_Whole_Disk_And_Name_No_Backing_File) {
  const json backup = backup_action();
  EXPECT_EQ(backup.at("sync"), "full");
  EXPECT_FALSE(backup.contains("bitmap"));
  EXPECT_FALSE(backup.contains("bitmap-mode"));
  EXPECT_EQ(backup.at("auto-dismiss"), false);
  EXPECT_EQ(image().backing_link, "");
  EXPECT_EQ(image().virtual_size, kGiB);
}

TEST_F(CommandsTest, Come_In_The_Order_That_The_Promise_Rests_On) {
  have_chain_up_to(0);
  ask(1);
  const std::vector<QmpCommand> commands = list_commands(plan());
  std::vector<std::string> mark = {"block-dirty-bitmap-add"};
  mark.resize(mark.size() + marks_of(kGiB, 0).size(), "human-monitor-command");
  mark.emplace_back("block-dirty-bitmap-disable");
  std::vector<std::string> expected = {"blockdev-add"};
  const auto then = [&](const std::vector<std::string>& more) {
    expected.insert(expected.end(), more.begin(), more.end());
  };
  then(mark);  // are the previous level's marks there?
  then({"transaction", "blockdev-del"});
  then({"add-fd", "add-fd", "add-fd", "add-fd", "blockdev-add", "blockdev-add"});
  then({"blockdev-add"});
  then(mark);  // the previous level's, and this one's
  then(mark);
  then({"transaction", "blockdev-del"});  // the point in time
  then({"blockdev-reopen", "blockdev-del", "blockdev-del", "job-dismiss", "block-dirty-bitmap-remove", "remove-fd"});
  EXPECT_EQ(names_of(commands), expected);
  const QmpCommand& last_but_one = commands[commands.size() - 2];
  EXPECT_EQ(last_but_one.arguments, (json{{"node", "#block1"}, {"name", level_bitmap(kChain, Level{0}).value}}))
      << "the previous bitmap goes after all that can fail";
  EXPECT_EQ(commands[commands.size() - 3].arguments.at("id"), level_job(kChain, Level{1}).value);
}

TEST_F(CommandsTest, Mark_A_Grown_Disk_As_It_Was_And_As_It_Is) {
  have_chain_up_to(0);
  ask(1);
  const auto bitmaps_of_marks = [&] {
    std::vector<std::string> bitmaps;
    for (const QmpCommand& command : list_commands(plan())) {
      if (command.name == "block-dirty-bitmap-add") {
        bitmaps.push_back(command.arguments.at("name"));
      }
    }
    return bitmaps;
  };
  node().virtual_size += kGiB;
  EXPECT_EQ(bitmaps_of_marks(), (std::vector<std::string>{kOldMarks.value, kOldMarks.value, kMarks.value}));
}

TEST_F(CommandsTest, Never_Clear_A_Bitmap_Or_Let_A_Job_Change_One) {
  for (const int last : {-2, -1, 3}) {
    if (last > -2) {
      have_chain_up_to(last);
    }
    ask(last + 1);
    for (const QmpCommand& command : list_commands(plan())) {
      const std::string text = to_json(command).dump();
      EXPECT_EQ(text.find("bitmap-clear"), std::string::npos) << text;
      EXPECT_EQ(text.find("on-success"), std::string::npos) << text;
      EXPECT_EQ(text.find("\"incremental\""), std::string::npos) << text;
      EXPECT_EQ(text.find("grouped"), std::string::npos) << text;
    }
  }
}

TEST_F(CommandsTest, Put_The_New_Bitmap_Before_The_Backup_In_One_Transaction) {
  const json all = actions();
  ASSERT_EQ(all.size(), 3U);
  EXPECT_EQ(all[0].at("type"), "block-dirty-bitmap-add");
  EXPECT_EQ(all[1].at("type"), "block-dirty-bitmap-merge");
  EXPECT_EQ(all[1].at("data").at("target"), all[0].at("data").at("name"));
  EXPECT_EQ(all[1].at("data").at("node"), "#block1");
  EXPECT_EQ(all[2].at("type"), "blockdev-backup");
}

TEST_F(CommandsTest, Leave_The_Marks_Out_Where_There_Is_No_Human_Monitor) {
  vm_.features.human_monitor = false;
  EXPECT_EQ(disk_plan().pending().marks, 0U);
  for (const QmpCommand& command : list_commands(plan())) {
    EXPECT_EQ(to_json(command).dump().find("marks"), std::string::npos) << to_json(command).dump();
  }
}

TEST_F(CommandsTest, Of_Two_Disks_Share_One_Transaction) {
  DiskCircumstances second = disk_;
  second.request.device = "drive1";
  second.request.files = ChainFiles("/backup/drive1");
  second.fresh_id = kChain;
  second.fdset_id = 78;
  Node other = node();
  other.name = {"#block5"};
  vm_.nodes.push_back(other);
  vm_.devices.push_back({"drive1", "", {"#block5"}});
  const BackupPlan both = plan_backup(vm_, {disk_, second});
  const std::vector<QmpCommand> commands = list_commands(both);
  EXPECT_EQ(std::count_if(commands.begin(), commands.end(), [](const auto& c) { return c.name == "transaction"; }), 1);
  std::set<std::string> devices;
  const QmpCommand transaction = start_backup(both.disks);
  for (const json& action : transaction.arguments.at("actions")) {
    if (action.at("type") == "blockdev-backup") {
      devices.insert(action.at("data").at("device"));
    }
  }
  EXPECT_EQ(devices, (std::set<std::string>{"#block1", "#block5"}));
}

TEST_F(CommandsTest, Make_A_Bitmap_Persistent_Only_Where_The_Node_Can_Store_It) {
  EXPECT_EQ(actions()[0].at("data").at("persistent"), true);
  EXPECT_TRUE(plan().warnings.empty());
  node().stores_bitmaps = false;
  node().driver = "raw";
  EXPECT_EQ(actions()[0].at("data").at("persistent"), false);
  ASSERT_EQ(plan().warnings.size(), 1U);
  EXPECT_NE(plan().warnings[0].find("a raw disk cannot store bitmaps: when QEMU exits"), std::string::npos);
  node().driver = "qcow2";
  EXPECT_NE(plan().warnings.at(0).find("version 2"), std::string::npos);
  node().stores_bitmaps = true;
  node().read_only = true;
  EXPECT_EQ(actions()[0].at("data").at("persistent"), false);
}

TEST_F(CommandsTest, Compress_With_The_Best_That_There_Is_Unless_Told) {
  EXPECT_TRUE(image().zstd);
  EXPECT_EQ(backup_action().at("compress"), true);
  EXPECT_EQ(disk_plan().pending().compression, "zstd");
  vm_.features.zstd = false;
  EXPECT_FALSE(image().zstd);
  EXPECT_EQ(backup_action().at("compress"), true);
  EXPECT_EQ(disk_plan().pending().compression, "zlib");
  vm_.features.zstd = true;
  disk_.request.compression = "zlib";
  EXPECT_FALSE(image().zstd);
  disk_.request.compression = "none";
  EXPECT_EQ(backup_action().at("compress"), false);
  EXPECT_FALSE(image().zstd);
}

TEST_F(CommandsTest, Use_Large_Clusters_For_A_Full_And_Small_Ones_For_An_Incremental) {
  EXPECT_EQ(image().cluster_size, kMiB);
  have_chain_up_to(0);
  ask(1);
  EXPECT_EQ(image().cluster_size, 64 * kKiB);
  disk_.request.cluster_size = 2 * kMiB;
  EXPECT_EQ(image().cluster_size, 2 * kMiB);
}

TEST_F(CommandsTest, Keep_A_Size_That_Is_No_Multiple_Of_Anything) {
  node().virtual_size = kMiB + 512;
  EXPECT_EQ(image().virtual_size, kMiB + 512);
}

TEST_F(CommandsTest, Limit_The_Speed_Only_When_Asked) {
  EXPECT_FALSE(backup_action().contains("speed"));
  disk_.request.speed_bytes_per_second = 50 * kMiB;
  EXPECT_EQ(backup_action().at("speed"), 50 * kMiB);
}

TEST_F(CommandsTest, Write_Directly_Where_The_File_System_Takes_It) {
  EXPECT_EQ(add_file_node(disk_plan()).arguments.at("cache").at("direct"), true);
  disk_.request.buffered = true;
  EXPECT_EQ(add_file_node(disk_plan()).arguments.at("cache").at("direct"), false);
  disk_.request.buffered = false;
  disk_.target.takes_direct_io = false;
  EXPECT_EQ(add_file_node(disk_plan()).arguments.at("cache").at("direct"), false);
}

TEST_F(CommandsTest, Name_The_File_By_Path_Where_No_Descriptor_Can_Be_Passed) {
  for (const bool by_tcp : {true, false}) {
    disk_.same_host = !by_tcp;
    vm_.features.descriptors = by_tcp;
    EXPECT_EQ(add_file_node(disk_plan()).arguments.at("filename"), "/backup/drive0.full.qcow2.partial");
    const auto names = names_of(list_commands(plan()));
    EXPECT_EQ(std::count(names.begin(), names.end(), "add-fd"), 0);
  }
}

TEST_F(CommandsTest, Take_Names_That_Need_Care_As_They_Are) {
  disk_.request.files = ChainFiles("/back up/vm1:\"dïsk\" #1");
  have_chain_up_to(-1);
  for (LevelRecord& level : manifest().levels) {
    level.file = disk_.request.files.level_file(level.level);
  }
  ask(0);
  EXPECT_EQ(image().backing_link, "./vm1:\"dïsk\" #1.full.qcow2");
}

TEST_F(CommandsTest, After_A_Merge_Go_On_With_The_Next_Number_On_Top_Of_The_Full) {
  have_chain_up_to(-1);
  manifest().merged = Level{3};
  manifest().levels[0].bitmap = level_bitmap(kChain, Level{3});  // the full's point in time is that of inc3 now
  last_bitmap().name = level_bitmap(kChain, Level{3});
  ask(3);
  EXPECT_REFUSED(ChainError, "level inc3 was merged into the full");
  for (const bool automatic : {false, true}) {
    ask(4);
    if (automatic) {
      ask_auto();
    }
    EXPECT_EQ(disk_plan().pending().level, Level{4});
    EXPECT_EQ(disk_plan().previous_bitmap, level_bitmap(kChain, Level{3}));
    EXPECT_EQ(image().backing_link, "drive0.full.qcow2");
  }
}

TEST_F(CommandsTest, A_Bitmap_Below_A_Snapshot_Is_Said_To_Be_There) {
  have_chain_up_to(0);
  Node overlay = node();
  overlay.name = {"#block9"};
  overlay.bitmaps.clear();
  vm_.nodes.push_back(overlay);
  vm_.devices[0].root = overlay.name;
  vm_.edges.push_back({"drive0", "#block9", "root"});
  vm_.edges.push_back({"#block9", "#block1", "backing"});
  ask(1);
  EXPECT_REFUSED(NewFullNeeded,
                 "the bitmap for level inc0 is on the node #block1, below a snapshot; commit the snapshot");
}

TEST_F(CommandsTest, Work_On_The_Node_Below_A_Filter) {
  Node filter;
  filter.name = {"limit"};
  filter.driver = "throttle";
  vm_.nodes.push_back(filter);
  vm_.devices = {{"", "/machine/peripheral/d0/virtio-backend", {"limit"}}};
  vm_.edges = {{"limit", "#block1", "file"}};
  disk_.request.device = "d0";
  for (const json& action : actions()) {
    const json& data = action.at("data");
    EXPECT_EQ(data.value("device", data.value("node", "")), "#block1") << action.dump();
  }
}

// ---- space ----

TEST_F(CommandsTest, Space_Is_Needed_For_What_Is_Allocated_Or_Dirty_And_A_Margin) {
  EXPECT_EQ(disk_plan().expected_bytes, 100 * kMiB);
  disk_.target.free_bytes = 100 * kMiB;
  EXPECT_REFUSED(ChainError, "/backup has 100.0 MiB free, the backup may need");
  disk_.target.free_bytes = 150 * kMiB;
  EXPECT_NO_THROW(plan());
  have_chain_up_to(0);
  ask(1);
  EXPECT_EQ(disk_plan().expected_bytes, 2 * kMiB);
  disk_.target.free_bytes = 2 * kMiB;
  EXPECT_REFUSED(ChainError, "free");
  last_bitmap().dirty = kGiB;
  disk_.target.free_bytes = kGiB;
  EXPECT_REFUSED(ChainError, "free");
}

TEST_F(CommandsTest, Uncompressed_Clusters_Are_Small_Or_Counted_As_A_Whole) {
  disk_.request.compression = "none";
  EXPECT_EQ(disk_plan().pending().cluster_size, 64 * kKiB);
  disk_.target.free_bytes = 300 * kMiB;  // 100 MiB are allocated
  EXPECT_NO_THROW(plan());
  disk_.request.cluster_size = kMiB;
  EXPECT_REFUSED(ChainError, "300.0 MiB free");
}

TEST_F(CommandsTest, Space_Of_An_Incremental_Counts_Whole_Clusters_Of_The_Target) {
  have_chain_up_to(0);
  ask(1);
  disk_.request.cluster_size = 2 * kMiB;
  EXPECT_EQ(disk_plan().expected_bytes, 64 * kMiB) << "32 granules, each in a cluster of its own at worst";
  last_bitmap().dirty = kGiB;
  EXPECT_EQ(disk_plan().expected_bytes, kGiB) << "never more than the disk";
}

TEST_F(CommandsTest, Space_Is_Not_Checked_When_Unknown_Or_Not_Wanted) {
  disk_.target.free_bytes = 1;
  disk_.request.check_space = false;
  EXPECT_NO_THROW(plan());
  disk_.request.check_space = true;
  disk_.target.free_bytes.reset();
  EXPECT_NO_THROW(plan());
}

// ---- marks ----

TEST_F(CommandsTest, Marks_Are_Looked_At_Only_Where_The_Bitmap_Can_Be_Read) {
  have_chain_up_to(0);
  const Disk disk = find_disk(vm_, "drive0");
  ASSERT_NE(level_with_marks(vm_, disk, disk_.chain), nullptr);
  EXPECT_EQ(level_with_marks(vm_, disk, disk_.chain)->level, Level{0});
  EXPECT_EQ(level_with_marks(vm_, disk, ChainOnDisk{}), nullptr);
  last_bitmap().busy = true;
  EXPECT_EQ(level_with_marks(vm_, disk, disk_.chain), nullptr);
  last_bitmap().busy = false;
  last_bitmap().inconsistent = true;
  EXPECT_EQ(level_with_marks(vm_, disk, disk_.chain), nullptr);
  last_bitmap().inconsistent = false;
  node().virtual_size -= 512;
  EXPECT_EQ(level_with_marks(vm_, disk, disk_.chain), nullptr);
  node().virtual_size += 512;
  --manifest().levels.back().marks;
  EXPECT_EQ(level_with_marks(vm_, disk, disk_.chain), nullptr) << "marks of a scheme that is not known";
  manifest().levels.back().marks = 0;
  EXPECT_EQ(level_with_marks(vm_, disk, disk_.chain), nullptr);
}

TEST_F(CommandsTest, Marks_Are_Made_And_Compared_On_A_Scratch_Node_Alone) {
  const NodeName scratch = scratch_node(kChain);
  const auto commands = add_marks(scratch, kMarks, 8 * kMiB, 5);
  ASSERT_EQ(commands.size(), 2 + marks_of(8 * kMiB, 5).size());
  const std::string line = commands.at(1).arguments.at("command-line");
  EXPECT_TRUE(line.starts_with("qemu-io qmpbackup-0123456789ab-marks ")) << line;
  EXPECT_NE(line.find(" 7340032 1048576"), std::string::npos) << line;
  const json compare = compare_with_marks(scratch, kOldMarks, {"#block1"}, {"old"});
  for (const json& action : compare) {
    EXPECT_EQ(action.at("data").at("node"), scratch.value) << "the disk's own bitmaps are only read";
  }
}

}  // namespace
}  // namespace qmpbackup::test
