// Which level a run takes, and what it refuses before anything is changed.
#include <algorithm>

#include "unit/planner_fixture.hpp"

namespace qmpbackup::test {
namespace {

// ---- which level ----

TEST_F(PlannerTest, Takes_A_Full_Where_There_Is_Nothing) {
  for (const std::optional<Level> level : {std::optional(kFullLevel), std::optional<Level>()}) {
    disk_.request.level = level;
    const DiskPlan plan = disk_plan();
    EXPECT_EQ(plan.pending().level, kFullLevel);
    EXPECT_EQ(plan.pending().chain, kFresh);
    EXPECT_EQ(plan.intent.chain, kFresh);
    EXPECT_TRUE(plan.intent.levels.empty());
    EXPECT_TRUE(plan.pending().reason.empty());
    EXPECT_FALSE(plan.pending().archive);
    EXPECT_FALSE(plan.previous_bitmap);
  }
}

TEST_F(PlannerTest, Takes_The_Level_After_The_Last_When_Asked_For_It_Or_For_Auto) {
  for (const int last : {-1, 0, 7}) {
    for (const bool automatic : {false, true}) {
      have_chain_up_to(last);
      ask(last + 1);
      if (automatic) {
        ask_auto();
      }
      const DiskPlan plan = disk_plan();
      EXPECT_EQ(plan.pending().level, Level{last + 1});
      EXPECT_EQ(plan.pending().chain, kChain);
      EXPECT_EQ(plan.previous_bitmap, level_bitmap(kChain, Level{last}));
      EXPECT_EQ(plan.pending().bitmap, level_bitmap(kChain, Level{last + 1}));
      EXPECT_EQ(plan.pending().partial, "drive0.inc" + std::to_string(last + 1) + ".qcow2.partial");
      EXPECT_EQ(plan.intent.levels.size(), static_cast<std::size_t>(last + 2));
      EXPECT_FALSE(plan.pending().archive);
      EXPECT_TRUE(plan_backup(vm_, {disk_}).warnings.empty());
    }
  }
}

TEST_F(PlannerTest, The_Intent_Says_All_That_Recovery_Needs) {
  have_chain_up_to(0);
  ask(1);
  const Pending pending = disk_plan().pending();
  EXPECT_EQ(pending.job, level_job(kChain, Level{1}));
  EXPECT_EQ(pending.node, target_node(kChain));
  EXPECT_EQ(pending.started, "2026-11-23T02:00:00Z");
  EXPECT_EQ(pending.device, "drive0");
  EXPECT_EQ(pending.vm.name, "web1");
  EXPECT_EQ(pending.virtual_size, kGiB);
  EXPECT_TRUE(pending.was_running);
  EXPECT_FALSE(pending.adopts);
  EXPECT_FALSE(pending.verified);
  vm_.status = "prelaunch";
  EXPECT_FALSE(disk_plan().pending().was_running);
}

TEST_F(PlannerTest, Refuses_A_Full_Over_Existing_Level) {
  have_chain_up_to(1);
  EXPECT_REFUSED(ChainError, "/backup/drive0.full.qcow2 exists already");
  have_foreign_chain_up_to(-1);
  EXPECT_REFUSED(ChainError, "nothing is overwritten");
  disk_.chain.files = {file_of(3)};
  EXPECT_REFUSED(ChainError, "/backup/drive0.inc3.qcow2");
  disk_.chain.files = {file_of(-1)};
  disk_.chain.files[0].header.reset();
  EXPECT_REFUSED(ChainError, "/backup/drive0.full.qcow2");
}

TEST_F(PlannerTest, Refuses_A_Full_Over_A_Manifest_Whose_Files_Are_Gone_Or_That_Is_Damaged) {
  have_chain_up_to(1);
  disk_.chain.files.clear();
  EXPECT_REFUSED(ChainError, "drive0.chain.json");
  disk_.chain.manifest.reset();
  disk_.chain.manifest_state = ManifestState::kDamaged;
  EXPECT_REFUSED(ChainError, "drive0.chain.json");
}

TEST_F(PlannerTest, Refuses_A_Level_That_Exists_And_One_Too_Far_Ahead) {
  have_chain_up_to(2);
  for (const int level : {0, 1, 2}) {
    ask(level);
    EXPECT_REFUSED(ChainError, "level inc" + std::to_string(level) + " exists already");
  }
  ask(4);
  EXPECT_REFUSED(ChainError, "level inc4 needs level inc3");
  EXPECT_REFUSED(ChainError, "-inc 3");
}

// ---- where a chain cannot go on ----

struct DeadEnd {
  const char* name;
  void (*happen)(VmState&, DiskCircumstances&);
  const char* words;
};

Bitmap& bitmap_of(VmState& vm) {
  return vm.nodes[0].bitmaps.back();
}

const DeadEnd kDeadEnds[] = {
    {"BitmapGone", [](VmState& vm, DiskCircumstances&) { vm.nodes[0].bitmaps.clear(); }, "no bitmap for level inc0"},
    {"BitmapOfAnotherLevel",
     [](VmState& vm, DiskCircumstances&) { bitmap_of(vm).name = level_bitmap(kChain, kFullLevel); },
     "no bitmap for level inc0"},
    {"BitmapOfAnotherChain",
     [](VmState& vm, DiskCircumstances&) { bitmap_of(vm).name = level_bitmap(kFresh, Level{0}); },
     "no bitmap for level inc0"},
    {"BitmapOfANewerLevel",
     [](VmState& vm, DiskCircumstances&) { bitmap_of(vm).name = level_bitmap(kChain, Level{2}); },
     "the bitmap of level inc2, which is not here: this is an older copy"},
    {"BitmapInconsistent", [](VmState& vm, DiskCircumstances&) { bitmap_of(vm).inconsistent = true; }, "inconsistent"},
    {"BitmapNotRecording", [](VmState& vm, DiskCircumstances&) { bitmap_of(vm).recording = false; }, "not recording"},
    {"BitmapBusy", [](VmState& vm, DiskCircumstances&) { bitmap_of(vm).busy = true; }, "busy"},
    {"DiskShrunk", [](VmState& vm, DiskCircumstances&) { vm.nodes[0].virtual_size -= 512; }, "shrunk"},
    {"RawDiskGrown",
     [](VmState& vm, DiskCircumstances&) {
       vm.nodes[0].driver = "raw";
       vm.nodes[0].virtual_size += 512;
     },
     "grown"},
    {"MarksGone", [](VmState&, DiskCircumstances& disk) { disk.marks_intact = false; }, "shrunk and grown"},
    {"ManifestDamaged",
     [](VmState&, DiskCircumstances& disk) {
       disk.chain.manifest.reset();
       disk.chain.manifest_state = ManifestState::kDamaged;
       disk.chain.manifest_problem = "it is not JSON";
     },
     "is damaged: it is not JSON"},
    {"ManifestMissing",
     [](VmState&, DiskCircumstances& disk) {
       disk.chain.manifest.reset();
       disk.chain.manifest_state = ManifestState::kAbsent;
     },
     "is missing"},
    {"LevelFileGone", [](VmState&, DiskCircumstances& disk) { disk.chain.files.erase(disk.chain.files.begin()); },
     "drive0.full.qcow2 is gone"},
    {"AllFilesGone", [](VmState&, DiskCircumstances& disk) { disk.chain.files.clear(); }, "is gone"},
    {"LevelNoQcow2", [](VmState&, DiskCircumstances& disk) { disk.chain.files[1].header.reset(); }, "not a qcow2"},
    {"LevelTruncated", [](VmState&, DiskCircumstances& disk) { disk.chain.files[1].file_size = 512; }, "512 bytes"},
    {"LevelOfAnotherSize", [](VmState&, DiskCircumstances& disk) { disk.chain.files[1].header->virtual_size = 9; },
     "9 bytes"},
    {"BackingLinkChanged",
     [](VmState&, DiskCircumstances& disk) { disk.chain.files[1].header->backing_file = "other.qcow2"; },
     "'other.qcow2'"},
    {"UnknownLevelInTheWay",
     [](VmState&, DiskCircumstances& disk) {
       disk.chain.files.push_back(disk.chain.files.back());
       disk.chain.files.back().level = Level{1};
     },
     "drive0.inc1.qcow2 is not in the manifest"},
};

class PlannerAtADeadEnd : public PlannerTest, public testing::WithParamInterface<DeadEnd> {
 protected:
  void SetUp() override {
    have_chain_up_to(0);
    GetParam().happen(vm_, disk_);
  }
};

TEST_P(PlannerAtADeadEnd, Refuses_The_Level_And_Says_That_A_New_Full_Is_Needed) {
  ask(1);
  EXPECT_REFUSED(NewFullNeeded, GetParam().words);
  EXPECT_REFUSED(NewFullNeeded, disk_.request.command + " -inc auto");
  EXPECT_REFUSED(NewFullNeeded, "drive0: ");
}

TEST_P(PlannerAtADeadEnd, Takes_A_New_Full_By_Auto_With_The_Reason_And_Moves_The_Old_Chain) {
  ask_auto();
  const BackupPlan plan = this->plan();
  const Pending& pending = plan.disks.at(0).pending();
  EXPECT_EQ(pending.level, kFullLevel);
  EXPECT_EQ(pending.chain, kFresh);
  EXPECT_EQ(pending.bitmap, level_bitmap(kFresh, kFullLevel));
  EXPECT_FALSE(plan.disks[0].previous_bitmap);
  EXPECT_NE(pending.reason.find(GetParam().words), std::string::npos) << pending.reason;
  ASSERT_TRUE(pending.archive);
  EXPECT_TRUE(*pending.archive == "20261122T020000Z" || *pending.archive == "20261120T020000Z" ||
              *pending.archive == "20261123T020000Z")
      << *pending.archive;
  ASSERT_FALSE(plan.warnings.empty());
  EXPECT_NE(plan.warnings[0].find("taking a new full"), std::string::npos);
  EXPECT_NE(plan.warnings[0].find("/backup/drive0." + *pending.archive), std::string::npos) << plan.warnings[0];
  EXPECT_EQ(plan.disks[0].manifest_was_damaged, disk_.chain.manifest_state == ManifestState::kDamaged);
  if (disk_.chain.manifest) {  // until the commit the old chain stays what it was
    EXPECT_EQ(plan.disks[0].intent.chain, kChain);
    EXPECT_EQ(plan.disks[0].intent.levels.size(), 2U);
  }
}

INSTANTIATE_TEST_SUITE_P(Every, PlannerAtADeadEnd, testing::ValuesIn(kDeadEnds),
                         [](const auto& each) { return each.param.name; });

TEST_F(PlannerTest, Warns_Of_An_Encrypted_Disk_And_Of_A_Folder_That_May_Not_Be_Mounted) {
  EXPECT_TRUE(plan().warnings.empty());
  node().encrypted = true;
  ASSERT_EQ(plan().warnings.size(), 1U);
  EXPECT_NE(plan().warnings[0].find("encrypted"), std::string::npos);
  node().encrypted = false;

  node().bitmaps = {bitmap_called(level_bitmap(kChain, Level{4}))};
  EXPECT_TRUE(plan().warnings.empty()) << "a full was asked for";
  ask_auto();
  ASSERT_EQ(plan().warnings.size(), 1U);
  EXPECT_NE(plan().warnings[0].find("mounted"), std::string::npos) << plan().warnings[0];
  EXPECT_EQ(disk_plan().pending().level, kFullLevel);
}

TEST_F(PlannerTest, Names_Both_Vms_Where_A_Chain_Without_Its_Bitmap_Has_Another_Ones_Name) {
  have_chain_up_to(0);
  node().bitmaps.clear();
  manifest().vm.name = "web1";
  vm_.identity.name = "web2";
  ask(1);
  EXPECT_REFUSED(NewFullNeeded, "of the VM web1, this one is web2");
  vm_.identity.name = "web1";
  EXPECT_EQ(refusal<NewFullNeeded>().find("of the VM"), std::string::npos);
}

TEST_F(PlannerTest, Gives_An_Old_Chain_A_Folder_That_Is_Not_There_Yet) {
  have_chain_up_to(0);
  node().bitmaps.clear();
  ask_auto();
  EXPECT_EQ(disk_plan().pending().archive, "20261122T020000Z");
  disk_.chain.archives = {"20261122T020000Z", "20261122T020000Z-2"};
  EXPECT_EQ(disk_plan().pending().archive, "20261122T020000Z-3");
  EXPECT_NE(plan().warnings.at(0).find("20261122T020000Z-3"), std::string::npos) << plan().warnings[0];
}

TEST_F(PlannerTest, A_New_Chain_Replaces_The_One_Whose_Manifest_Is_Damaged) {
  have_chain_up_to(0);
  disk_.chain.manifest.reset();
  disk_.chain.manifest_state = ManifestState::kDamaged;
  disk_.chain.lost_id = kChain;
  ask_auto();
  const BackupPlan plan = this->plan();
  EXPECT_EQ(plan.disks.at(0).intent.replaces, std::vector{kChain});  // so that its bitmap goes
  EXPECT_EQ(plan.warnings.size(), 1U);
}

TEST_F(PlannerTest, A_First_Full_Replaces_No_Chain_Whatever_The_Lock_Says) {
  disk_.chain.lost_id = kChain;
  EXPECT_TRUE(disk_plan().intent.replaces.empty());
}

TEST_F(PlannerTest, Names_The_Bitmap_That_A_Lost_Manifest_Leaves_Behind) {
  have_chain_up_to(0);
  disk_.chain.manifest.reset();
  disk_.chain.manifest_state = ManifestState::kAbsent;
  ask_auto();
  const BackupPlan plan = this->plan();
  EXPECT_TRUE(plan.disks.at(0).intent.replaces.empty());
  ASSERT_EQ(plan.warnings.size(), 2U);
  EXPECT_NE(plan.warnings[1].find(level_bitmap(kChain, Level{0}).value), std::string::npos) << plan.warnings[1];
}

TEST_F(PlannerTest, Refuses_An_Incremental_Without_A_Full) {
  for (const int level : {0, 3}) {
    ask(level);
    EXPECT_REFUSED(NewFullNeeded, "there is no full backup at /backup/drive0.full.qcow2");
  }
}

TEST_F(PlannerTest, Goes_On_After_A_Qcow2_Disk_Has_Grown) {
  have_chain_up_to(0);
  ask(1);
  node().virtual_size = 2 * kGiB + 512;
  EXPECT_EQ(disk_plan().pending().virtual_size, 2 * kGiB + 512);
}

TEST_F(PlannerTest, Goes_On_Where_Marks_Were_Not_Made_Or_Not_Looked_At) {
  have_chain_up_to(0);
  ask(1);
  disk_.marks_intact.reset();
  EXPECT_NO_THROW(plan());
  disk_.marks_intact = false;
  manifest().levels.back().marks = 0;
  EXPECT_NO_THROW(plan());
}

// ---- refusals that hold for any level ----

struct Obstacle {
  const char* name;
  void (*happen)(VmState&, DiskCircumstances&);
  const char* words;
};

const Obstacle kObstacles[] = {
    {"OldQemu", [](VmState& vm, DiskCircumstances&) { vm.features.backup_never_clears = false; }, "4.2"},
    {"Migration", [](VmState& vm, DiskCircumstances&) { vm.migration_status = "active"; }, "migration"},
    {"MigrationSetup", [](VmState& vm, DiskCircumstances&) { vm.migration_status = "setup"; }, "migration"},
    {"Incoming", [](VmState& vm, DiskCircumstances&) { vm.status = "inmigrate"; }, "another QEMU"},
    {"Migrated",
     [](VmState& vm, DiskCircumstances&) {
       vm.status = "postmigrate";
       vm.migration_status = "completed";
     },
     "another QEMU"},
    {"ForeignJob",
     [](VmState& vm, DiskCircumstances&) {
       vm.jobs = {{{"mirror0"}, "mirror", "running", 0, 0, {}}};
       vm.edges.push_back({"mirror0", "#block1", "main node"});
     },
     "mirror job 'mirror0'"},
    {"JobOfAnotherChain",
     [](VmState& vm, DiskCircumstances&) {
       const JobId other = level_job(*ChainId::parse("99999999-1d2e-4f60-8a9b-0123456789ab"), kFullLevel);
       vm.jobs = {{other, "backup", "running", 0, 0, {}}};
       vm.edges.push_back({other.value, "#block1", "main node"});
     },
     "backup job"},
    {"NoSize", [](VmState& vm, DiskCircumstances&) { vm.nodes[0].virtual_size = 0; }, "no size"},
    {"FolderMissing", [](VmState&, DiskCircumstances& disk) { disk.target.exists = false; }, "no folder /backup"},
    {"FolderReadOnly", [](VmState&, DiskCircumstances& disk) { disk.target.writable = false; }, "not writable"},
    {"FolderFull", [](VmState&, DiskCircumstances& disk) { disk.target.free_bytes = kMiB; }, "--no-space-check"},
    {"UnknownDevice", [](VmState&, DiskCircumstances& disk) { disk.request.device = "drive9"; }, "drive0 (/vm/drive0"},
    {"NoZstd",
     [](VmState& vm, DiskCircumstances& disk) {
       vm.features.zstd = false;
       disk.request.compression = "zstd";
     },
     "--compress zlib"},
};

class PlannerBeforeAnObstacle : public PlannerTest, public testing::WithParamInterface<Obstacle> {};

TEST_P(PlannerBeforeAnObstacle, Refuses_A_Full_An_Incremental_And_Auto_Alike) {
  GetParam().happen(vm_, disk_);
  EXPECT_REFUSED(ChainError, GetParam().words);
  const std::vector<Edge> edges = vm_.edges;
  have_chain_up_to(0);
  GetParam().happen(vm_, disk_);
  vm_.edges = edges;
  ask(1);
  EXPECT_REFUSED(ChainError, GetParam().words);
  ask_auto();
  EXPECT_REFUSED(ChainError, GetParam().words);
}

INSTANTIATE_TEST_SUITE_P(Every, PlannerBeforeAnObstacle, testing::ValuesIn(kObstacles),
                         [](const auto& each) { return each.param.name; });

TEST_F(PlannerTest, Does_Not_Mind_A_Migration_That_Is_Over_Or_A_Job_Elsewhere) {
  for (const char* status : {"", "none", "completed", "failed", "cancelled"}) {
    vm_.migration_status = status;
    EXPECT_NO_THROW(plan()) << status;
  }
  vm_.jobs = {{{"mirror0"}, "mirror", "running", 0, 0, {}}};
  vm_.edges.push_back({"mirror0", "other-disk", "main node"});
  EXPECT_NO_THROW(plan());
}

TEST_F(PlannerTest, Refuses_A_Manifest_Of_A_Newer_Program_Whatever_Is_Asked) {
  disk_.chain.manifest_state = ManifestState::kTooNew;
  disk_.chain.manifest_problem = "it has format 2";
  disk_.chain.files = {file_of(-1)};
  for (const std::optional<Level> level :
       {std::optional(kFullLevel), std::optional(Level{0}), std::optional<Level>()}) {
    disk_.request.level = level;
    EXPECT_REFUSED(ChainError, "it has format 2");
  }
}

TEST_F(PlannerTest, A_Chain_Of_A_VM_With_A_Uuid_Is_Not_For_One_Of_Another_Name_Without) {
  have_chain_up_to(0);
  ask_auto();
  vm_.identity = {"web2", "00000000-0000-0000-0000-000000000000"};
  EXPECT_REFUSED(ChainError, "is a chain of the VM web1");
  vm_.identity.name = "web1";
  EXPECT_NO_THROW(plan());
}

}  // namespace
}  // namespace qmpbackup::test
