// The world inside QEMU, read from what QEMU 7.2.22 really answered (trimmed).
#include "qmpbackup/vm_state.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "qmpbackup/errors.hpp"

namespace qmpbackup {
namespace {

using nlohmann::json;

// -drive drive0 on a backing file; -blockdev disk1 below a throttle filter, read by a foreign backup job; -blockdev
// raw-fmt on a device without an id; an empty CD drive; `free`, used by nobody.
const char* const kQueryBlock = R"([
  {"device": "drive0", "qdev": "/machine/peripheral/d0/virtio-backend", "type": "unknown", "removable": false,
   "inserted": {"node-name": "#block362", "drv": "qcow2", "file": "drive0.qcow2", "backing_file": "base.qcow2"}},
  {"device": "", "qdev": "/machine/peripheral/disk1-dev/virtio-backend", "type": "unknown", "removable": false,
   "inserted": {"node-name": "#block732", "drv": "copy-before-write"}},
  {"device": "", "qdev": "/machine/peripheral-anon/device[0]/virtio-backend", "type": "unknown",
   "inserted": {"node-name": "raw-fmt", "drv": "raw"}},
  {"device": "", "qdev": "cd0", "type": "unknown", "removable": true, "tray_open": false}])";

const char* const kQueryNodes = R"([
  {"node-name": "#block732", "drv": "copy-before-write", "ro": false, "file": "json:{\"driver\": \"throttle\"}",
   "dirty-bitmaps": [{"recording": false, "persistent": false, "busy": false, "granularity": 65536, "count": 4194304}],
   "image": {"virtual-size": 4194304, "format": "copy-before-write", "actual-size": 200704}},
  {"node-name": "elsewhere", "drv": "raw", "ro": false, "file": "other.raw",
   "image": {"virtual-size": 4194304, "format": "raw", "actual-size": 1048576}},
  {"node-name": "#block554", "drv": "qcow2", "ro": true, "file": "base.qcow2",
   "image": {"virtual-size": 8388608, "actual-size": 200704, "format-specific": {"type": "qcow2", "data":
             {"compat": "1.1", "compression-type": "zlib", "corrupt": false}}}},
  {"node-name": "#block362", "drv": "qcow2", "ro": false, "file": "drive0.qcow2",
   "image": {"virtual-size": 8388608, "actual-size": 200704, "backing-filename": "base.qcow2",
             "format-specific": {"type": "qcow2", "data": {"compat": "1.1"}}}},
  {"node-name": "#block294", "drv": "file", "ro": false, "file": "drive0.qcow2",
   "image": {"virtual-size": 197120, "format": "file", "actual-size": 200704}},
  {"node-name": "free", "drv": "qcow2", "ro": false, "file": "v2.qcow2",
   "image": {"virtual-size": 2097152, "actual-size": 200704,
             "format-specific": {"type": "qcow2", "data": {"compat": "0.10", "compression-type": "zlib"}}}},
  {"node-name": "raw-fmt", "drv": "raw", "ro": false, "file": "raw.img",
   "image": {"virtual-size": 1049088, "format": "raw", "actual-size": 4096}},
  {"node-name": "disk1-throttle", "drv": "throttle", "ro": false, "file": "json:{\"driver\": \"throttle\"}",
   "image": {"virtual-size": 4194304, "format": "throttle", "actual-size": 200704}},
  {"node-name": "disk1-fmt", "drv": "qcow2", "ro": false, "file": "disk1.qcow2",
   "dirty-bitmaps": [{"name": "qmpbackup-0", "recording": true, "persistent": true, "busy": false,
                      "granularity": 65536, "count": 131072},
                     {"name": "old", "recording": false, "persistent": true, "busy": true, "inconsistent": true,
                      "granularity": 65536, "count": 0}],
   "image": {"virtual-size": 4194304, "actual-size": 200704,
             "format-specific": {"type": "qcow2", "data": {"compat": "1.1"}}}},
  {"node-name": "disk1-file", "drv": "file", "ro": false, "file": "disk1.qcow2",
   "image": {"virtual-size": 197120, "format": "file", "actual-size": 200704}}])";

const char* const kGraph = R"({"edges": [
  {"name": "file", "parent": 4, "perm": ["write"], "child": 12}, {"name": "target", "parent": 4, "child": 9},
  {"name": "file", "parent": 2, "child": 16}, {"name": "backing", "parent": 2, "child": 17},
  {"name": "file", "parent": 12, "child": 11}, {"name": "file", "parent": 11, "child": 10},
  {"name": "main node", "parent": 8, "perm": [], "child": 4}, {"name": "target", "parent": 8, "child": 9},
  {"name": "root", "parent": 5, "child": 6}, {"name": "root", "parent": 3, "child": 4},
  {"name": "root", "parent": 1, "child": 2}],
 "nodes": [{"name": "#block732", "type": "block-driver", "id": 4}, {"name": "elsewhere", "type": "block-driver", "id": 9},
  {"name": "#block554", "type": "block-driver", "id": 17}, {"name": "#block362", "type": "block-driver", "id": 2},
  {"name": "#block294", "type": "block-driver", "id": 16}, {"name": "free", "type": "block-driver", "id": 15},
  {"name": "raw-fmt", "type": "block-driver", "id": 6}, {"name": "disk1-throttle", "type": "block-driver", "id": 12},
  {"name": "disk1-fmt", "type": "block-driver", "id": 11}, {"name": "disk1-file", "type": "block-driver", "id": 10},
  {"name": "foreign", "type": "block-job", "id": 8}, {"name": "cd0", "type": "block-backend", "id": 7},
  {"name": "/machine/peripheral-anon/device[0]/virtio-backend", "type": "block-backend", "id": 5},
  {"name": "/machine/peripheral/disk1-dev/virtio-backend", "type": "block-backend", "id": 3},
  {"name": "drive0", "type": "block-backend", "id": 1}]})";

const char* const kQueryJobs = R"([{"current-progress": 1048576, "status": "running", "total-progress": 4194304,
  "type": "backup", "id": "foreign"}])";

class RealVm : public testing::Test {
 protected:
  RealVm() {
    vm_.devices = parse_devices(json::parse(kQueryBlock));
    vm_.nodes = parse_nodes(json::parse(kQueryNodes));
    vm_.edges = parse_block_graph(json::parse(kGraph));
    vm_.jobs = parse_jobs(json::parse(kQueryJobs));
  }

  std::string error_for(const std::string& name) const {
    try {
      find_disk(vm_, name);
      return "found";
    } catch (const ChainError& error) {
      return std::string(error.what()) + "; " + error.hint();
    }
  }

  VmState vm_;
};

TEST_F(RealVm, Nodes_Tell_Size_Driver_And_Whether_They_Store_Bitmaps) {
  ASSERT_EQ(vm_.nodes.size(), 10U);
  const Node& disk1 = *vm_.find_node({"disk1-fmt"});
  EXPECT_EQ(disk1.driver, "qcow2");
  EXPECT_EQ(disk1.file, "disk1.qcow2");
  EXPECT_EQ(disk1.virtual_size, 4 * kMiB);
  EXPECT_EQ(disk1.allocated, 200704U);
  EXPECT_TRUE(disk1.stores_bitmaps);
  EXPECT_FALSE(vm_.find_node({"free"})->stores_bitmaps) << "qcow2 version 2";
  EXPECT_FALSE(vm_.find_node({"raw-fmt"})->stores_bitmaps);
  EXPECT_EQ(vm_.find_node({"raw-fmt"})->virtual_size, kMiB + 512);
  EXPECT_TRUE(vm_.find_node({"#block554"})->read_only);
  EXPECT_FALSE(disk1.encrypted);
  EXPECT_TRUE(parse_nodes(json::parse(R"([{"node-name": "n", "drv": "qcow2", "encrypted": true}])")).at(0).encrypted);
  EXPECT_TRUE(parse_nodes(json::parse(R"([{"node-name": "n", "drv": "luks"}])")).at(0).encrypted);
  EXPECT_EQ(vm_.find_node({"nobody"}), nullptr);
}

TEST_F(RealVm, Bitmaps_Tell_Their_State_And_May_Have_No_Name) {
  const Node& disk1 = *vm_.find_node({"disk1-fmt"});
  const Bitmap& ours = *disk1.find_bitmap({"qmpbackup-0"});
  EXPECT_TRUE(ours.recording && ours.persistent);
  EXPECT_FALSE(ours.busy || ours.inconsistent);
  EXPECT_EQ(ours.dirty, 131072U);
  EXPECT_EQ(ours.granularity, 65536U);
  const Bitmap& old = *disk1.find_bitmap({"old"});
  EXPECT_TRUE(old.busy && old.inconsistent);
  EXPECT_FALSE(old.recording);
  EXPECT_TRUE(vm_.find_node({"#block732"})->bitmaps.at(0).name.value.empty());
  EXPECT_EQ(disk1.find_bitmap({"other"}), nullptr);
}

TEST_F(RealVm, A_Disk_Is_Found_By_Every_Name_It_Has) {
  for (const char* name : {"drive0", "d0", "/machine/peripheral/d0/virtio-backend", "#block362"}) {
    const Disk disk = find_disk(vm_, name);
    EXPECT_EQ(disk.node.value, "#block362") << name;
    EXPECT_EQ(disk.label, "drive0") << name;
  }
  for (const char* name :
       {"disk1-dev", "/machine/peripheral/disk1-dev/virtio-backend", "disk1-throttle", "disk1-fmt", "#block732"}) {
    const Disk disk = find_disk(vm_, name);
    EXPECT_EQ(disk.node.value, "disk1-fmt") << name << ": below all filters";
    EXPECT_EQ(disk.root.value, "#block732") << name;
    EXPECT_EQ(disk.path.size(), 3U) << name;
    EXPECT_EQ(disk.label, "disk1-dev") << name;
  }
  EXPECT_EQ(find_disk(vm_, "/machine/peripheral-anon/device[0]/virtio-backend").node.value, "raw-fmt");
  EXPECT_EQ(find_disk(vm_, "raw-fmt").node.value, "raw-fmt");
  EXPECT_EQ(find_disk(vm_, "free").label, "free") << "a node that nothing uses";
}

TEST_F(RealVm, A_Device_Name_Counts_Before_The_Qdev_Id_Of_Another_Disk) {
  vm_.devices[0].qdev = "disk1";  // of drive0
  vm_.devices[1].device = "disk1";
  EXPECT_EQ(find_disk(vm_, "disk1").node.value, "disk1-fmt");
  vm_.devices[1].device.clear();
  EXPECT_EQ(find_disk(vm_, "disk1").node.value, "#block362");
}

TEST(AnotherVm, Is_Told_By_Its_Uuid_Where_Both_Have_One) {
  const VmIdentity web1{"web1", "7a2c3e4f-0000-4000-8000-000000000001"};
  const VmIdentity nameless{"", "00000000-0000-0000-0000-000000000000"};
  EXPECT_THROW(refuse_other_vm("/b/d", web1, {"web1", "7a2c3e4f-0000-4000-8000-000000000002"}), ChainError);
  EXPECT_NO_THROW(refuse_other_vm("/b/d", web1, {"renamed", web1.uuid}));
  EXPECT_NO_THROW(refuse_other_vm("/b/d", web1, nameless));
  EXPECT_NO_THROW(refuse_other_vm("/b/d", nameless, web1));
  EXPECT_NO_THROW(refuse_other_vm("/b/d", {}, web1));
}

TEST_F(RealVm, An_Unknown_Name_Gets_The_List_Of_Disks_With_File_And_Size) {
  const std::string error = error_for("drive9");
  EXPECT_NE(error.find("'drive9'"), std::string::npos) << error;
  EXPECT_NE(error.find("drive0 (drive0.qcow2, 8.0 MiB)"), std::string::npos) << error;
  EXPECT_NE(error.find("disk1-dev (disk1.qcow2, 4.0 MiB)"), std::string::npos) << error;
  EXPECT_EQ(error.find("cd0"), std::string::npos) << error;
  EXPECT_EQ(error_for("").find("found"), std::string::npos);
}

TEST_F(RealVm, A_Device_Without_Medium_And_A_Part_Of_A_Disk_Are_Refused_By_Name) {
  EXPECT_NE(error_for("cd0").find("no medium"), std::string::npos);
  EXPECT_NE(error_for("#block294").find("part of another disk"), std::string::npos);
  EXPECT_NE(error_for("#block554").find("below a snapshot of the disk"), std::string::npos);
  EXPECT_NE(error_for("disk1-file").find("part of another disk"), std::string::npos);
}

TEST_F(RealVm, Without_Any_Disk_Says_So) {
  VmState empty;
  EXPECT_THROW(find_disk(empty, "drive0"), ChainError);
  empty.devices = {{"cd0", "", {}}};
  EXPECT_TRUE(list_disks(empty).empty());
}

TEST_F(RealVm, The_Disks_Are_Listed_In_Order_Without_Empty_Drives) {
  const std::vector<Disk> disks = list_disks(vm_);
  ASSERT_EQ(disks.size(), 3U);
  EXPECT_EQ(disks[0].label, "drive0");
  EXPECT_EQ(disks[1].label, "disk1-dev");
  EXPECT_EQ(disks[2].node.value, "raw-fmt");
}

TEST_F(RealVm, A_Job_Is_Seen_On_Its_Disk_Alone) {
  const Job* job = job_on(vm_, find_disk(vm_, "disk1-dev"));
  ASSERT_NE(job, nullptr);
  EXPECT_EQ(job->id.value, "foreign");
  EXPECT_EQ(job->type, "backup");
  EXPECT_EQ(job_on(vm_, find_disk(vm_, "drive0")), nullptr);
}

TEST_F(RealVm, A_Backing_Chain_Is_Followed_And_Its_Allocation_Added) {
  const Disk disk = find_disk(vm_, "drive0");
  const std::vector<const Node*> chain = backing_chain(vm_, disk);
  ASSERT_EQ(chain.size(), 2U);
  EXPECT_EQ(chain[1]->name.value, "#block554");
  EXPECT_EQ(allocated_bytes(vm_, disk), 2U * 200704);
}

TEST_F(RealVm, Allocation_Is_At_Most_The_Virtual_Size_And_That_Where_Unknown) {
  const Disk disk = find_disk(vm_, "drive0");
  for (Node& node : vm_.nodes) {
    node.allocated = 7 * kMiB;
  }
  EXPECT_EQ(allocated_bytes(vm_, disk), 8 * kMiB);
  for (Node& node : vm_.nodes) {
    node.allocated = 0;
  }
  EXPECT_EQ(allocated_bytes(vm_, disk), 8 * kMiB);
}

TEST_F(RealVm, A_Circle_In_The_Graph_Ends) {
  vm_.edges.push_back({"#block554", "#block362", "backing"});
  EXPECT_LE(backing_chain(vm_, find_disk(vm_, "drive0")).size(), vm_.nodes.size());
  vm_.edges = {{"disk1-throttle", "#block732", "file"}, {"#block732", "disk1-throttle", "file"}};
  EXPECT_NO_THROW(find_disk(vm_, "disk1-dev"));
}

TEST_F(RealVm, A_Filter_That_Cannot_Be_Seen_Through_Is_Refused_With_What_To_Do) {
  vm_.edges.clear();
  EXPECT_NE(error_for("disk1-dev").find("-deviceToBackup"), std::string::npos) << error_for("disk1-dev");
  EXPECT_EQ(error_for("drive0"), "found");
}

TEST_F(RealVm, A_Filter_That_Cannot_Be_Seen_Through_Does_Not_Hide_The_Other_Disks) {
  vm_.edges.clear();
  EXPECT_EQ(error_for("raw-fmt"), "found") << "listed after the filtered disk";
  EXPECT_NE(error_for("drive9").find("drive0 (drive0.qcow2"), std::string::npos) << error_for("drive9");
}

TEST(VmReplies, Of_Any_Shape_Are_Read_Leniently) {
  for (const char* text : {"null", "5", "\"x\"", "[]", "{}", "[null]", "[5, \"x\", [], {}]", R"([{"inserted": 5}])",
                           R"([{"node-name": 5, "image": [], "dirty-bitmaps": {"a": 1}}])",
                           R"([{"image": {"virtual-size": -5, "actual-size": "x", "format-specific": 3}}])",
                           R"({"nodes": 5, "edges": [{"parent": "x"}]})", R"({"nodes": [null], "edges": {"a": []}})"}) {
    const json reply = json::parse(text);
    EXPECT_NO_THROW({
      VmState vm;
      vm.devices = parse_devices(reply);
      vm.nodes = parse_nodes(reply);
      vm.edges = parse_block_graph(reply);
      vm.jobs = parse_jobs(reply);
      (void)list_disks(vm);
    }) << text;
  }
}

TEST(VmReplies, Jobs_Tell_Progress_End_And_Error) {
  const auto jobs = parse_jobs(json::parse(R"([
    {"id": "qmpbackup-0b3c6f52-1d2e-4f60-8a9b-0123456789ab-inc1", "type": "backup", "status": "concluded", "current-progress": 5, "total-progress": 5},
    {"id": "x", "type": "create", "status": "concluded", "current-progress": 0, "total-progress": 1,
     "error": "No space left on device"}])"));
  ASSERT_EQ(jobs.size(), 2U);
  EXPECT_TRUE(jobs[0].is_ours() && jobs[0].is_concluded());
  EXPECT_FALSE(jobs[0].error);
  EXPECT_EQ(jobs[0].current, 5U);
  EXPECT_FALSE(jobs[1].is_ours());
  EXPECT_EQ(jobs[1].error, "No space left on device");
}

TEST(VmFeatures, Come_From_The_Schema_Alone) {
  const VmFeatures nothing = parse_features(QmpSchema(json::array()));
  EXPECT_FALSE(nothing.backup_never_clears || nothing.reopen || nothing.zstd || nothing.descriptors);
  const VmFeatures some = parse_features(QmpSchema(json::parse(R"([
    {"name": "blockdev-backup", "meta-type": "command", "arg-type": "1"}, {"name": "add-fd", "meta-type": "command"},
    {"name": "blockdev-reopen", "meta-type": "command"}, {"name": "query-named-block-nodes", "meta-type": "command",
     "arg-type": "4"},
    {"name": "1", "meta-type": "object", "members": [{"name": "sync", "type": "2"}, {"name": "bitmap-mode", "type": "3"}]},
    {"name": "2", "meta-type": "enum", "values": ["full", "bitmap"]},
    {"name": "3", "meta-type": "enum", "values": ["on-success", "never"]},
    {"name": "4", "meta-type": "object", "members": [{"name": "flat", "type": "bool"}]}])")));
  EXPECT_TRUE(some.backup_never_clears && some.reopen && some.flat_nodes);
  EXPECT_FALSE(some.descriptors) << "remove-fd is missing";
  EXPECT_FALSE(some.zstd || some.human_monitor || some.identity || some.migration || some.block_graph);
}

}  // namespace
}  // namespace qmpbackup
