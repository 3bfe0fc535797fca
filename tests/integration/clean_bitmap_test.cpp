// -cleanBitmap removes the bitmaps of this program, and nothing else; how the chain goes on.
#include "integration/scenario.hpp"

namespace qmpbackup::test {
namespace {

class CleanBitmapTest : public OneDiskTest {
 protected:
  std::vector<std::string> bitmap_names() {
    std::vector<std::string> names;
    for (const auto& bitmap : vm().bitmaps("disk0")) {
      names.push_back(bitmap.at("name").get<std::string>());
    }
    std::ranges::sort(names);
    return names;
  }
  void add_bitmap(const std::string& name) {
    vm().control().execute("block-dirty-bitmap-add",
                           {{"node", vm().node_of("disk0")}, {"name", name}, {"persistent", true}});
  }
  ProgramResult clean(const Arguments& more = {}) {
    return run_program(tool("-socket", vm().socket(), "-device", "disk0", "-cleanBitmap") + more);
  }
};

TEST_F(CleanBitmapTest, Only_Our_Bitmaps_Go) {
  TestChain second(vm(), "disk0", base("second"));
  chain().take(-1);
  second.take(-1);
  add_bitmap("bitmap0");
  add_bitmap("foreign");
  add_bitmap("xqmpbackup-foreign");

  auto run = clean({"-backupFile", base()});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(contains(run.out, "disk0: removed 1 bitmap")) << run.out;
  EXPECT_EQ(bitmap_names(), (std::vector<std::string>{"bitmap0", "foreign", second.bitmap(-1), "xqmpbackup-foreign"}));
  second.take(0);

  run = clean({"--json"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(summary_of(run)["removed"].size(), 2U) << run.out;
  EXPECT_EQ(bitmap_names(), (std::vector<std::string>{"foreign", "xqmpbackup-foreign"}));
  EXPECT_EQ(clean().exit_code, 0) << "nothing to remove is no error";
  vm().restart();
  EXPECT_EQ(bitmap_names(), (std::vector<std::string>{"foreign", "xqmpbackup-foreign"}));
}

TEST_F(CleanBitmapTest, Dry_Run_Prints_What_Would_Go_And_Changes_Nothing) {
  chain().take(-1);
  const auto files = files_like(backups(), "");
  for (const auto& more : {Arguments{}, Arguments{"-backupFile", base()}}) {
    const auto run = clean(more + Arguments{"--dry-run"});
    EXPECT_EQ(run.exit_code, 0) << run.err;
    EXPECT_TRUE(contains(run.out, "block-dirty-bitmap-remove") && contains(run.out, chain().bitmap(-1))) << run.out;
    EXPECT_EQ(bitmap_names(), std::vector{chain().bitmap(-1)});
  }
  EXPECT_EQ(files_like(backups(), ""), files);
  chain().take(0);
  chain().expect_sound(0);
}

TEST_F(CleanBitmapTest, Bitmap_Of_A_Chain_Whose_Manifest_Is_Lost_Or_Damaged_Goes_Alone) {
  TestChain second(vm(), "disk0", base("second"));
  second.take(-1);
  add_bitmap("bitmap0");
  for (const bool lost : {true, false}) {
    chain().take(-1);
    const auto manifest = Oracle(base()).manifest();
    if (lost) {
      fs::remove(manifest);
    } else {
      write_file(manifest, "{");
    }
    const auto run = clean({"-backupFile", base()});
    EXPECT_EQ(run.exit_code, 0) << run.err;
    EXPECT_EQ(bitmap_names(), (std::vector<std::string>{"bitmap0", second.bitmap(-1)}));
    for (const auto& name : files_like(backups(), "^disk0")) {
      fs::remove(backups() / name);
    }
  }
}

TEST_F(CleanBitmapTest, Bitmap_That_A_Job_Uses_Stays_With_All_Others) {
  TestChain second(vm(), "disk0", base("second"));
  second.take(-1);
  chain().take(-1);
  vm().write("disk0", 0, MiB, 0x21);
  const auto size = vm().node(vm().node_of("disk0")).at("image").at("virtual-size").get<std::uint64_t>();
  vm().control().execute("blockdev-add", {{"driver", "null-co"}, {"node-name", "nowhere"}, {"size", size}});
  vm().control().execute("blockdev-backup", {{"job-id", "theirs"},
                                             {"device", vm().node_of("disk0")},
                                             {"target", "nowhere"},
                                             {"sync", "bitmap"},
                                             {"bitmap", chain().bitmap(-1)},
                                             {"bitmap-mode", "never"},
                                             {"speed", 1}});
  const auto run = clean();
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_TRUE(contains(run.err, chain().bitmap(-1) + " is in use by the job 'theirs'")) << run.err;
  EXPECT_EQ(vm().our_bitmaps("disk0").size(), 2U);
  vm().control().execute("block-job-cancel", {{"device", "theirs"}, {"force", true}});
  wait_until("the end of the job", [&] { return vm().control().execute("query-jobs").empty(); });
  EXPECT_EQ(clean().exit_code, 0);
  EXPECT_EQ(bitmap_names(), std::vector<std::string>());
}

TEST_F(CleanBitmapTest, Name_That_Only_Begins_Like_Ours_Stays) {
  chain().take(-1);
  add_bitmap("qmpbackup-mine");
  add_bitmap(chain().bitmap(-1) + "-of-theirs");
  const std::vector<std::string> theirs{chain().bitmap(-1) + "-of-theirs", "qmpbackup-mine"};
  EXPECT_EQ(clean({"-backupFile", base()}).exit_code, 0);
  EXPECT_EQ(bitmap_names(), theirs);
  add_bitmap(chain().bitmap(-1));
  EXPECT_EQ(clean().exit_code, 0);
  EXPECT_EQ(bitmap_names(), theirs);
}

TEST_F(CleanBitmapTest, Wrong_Base_Is_Said_To_Be_Wrong) {
  chain().take(-1);
  const auto run = clean({"-backupFile", base("nothing")});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(contains(run.err, "there is no chain at " + base("nothing").string())) << run.err;
  EXPECT_EQ(bitmap_names(), std::vector<std::string>{chain().bitmap(-1)});
}

TEST_F(CleanBitmapTest, What_A_Killed_Run_Of_A_Deleted_Chain_Left_Goes_Too) {
  auto run = start_slow_run();
  run.send_signal(SIGKILL);
  run.wait();
  unlimit_backup_job();
  wait_until("the end of the job", [&] { return backup_job(vm()).empty(); });
  for (const auto& name : files_like(backups(), "")) {
    fs::remove(backups() / name);
  }
  EXPECT_FALSE(vm().our_leftovers().empty());
  EXPECT_EQ(clean().exit_code, 0);
  EXPECT_EQ(vm().our_leftovers(fdsets_of(vm())), std::vector<std::string>());
  EXPECT_EQ(bitmap_names(), std::vector<std::string>());
}

TEST_F(CleanBitmapTest, Bitmap_Below_A_Snapshot_Stays_With_A_Warning) {
  chain().take(-1);
  const auto old_bitmap = chain().bitmap(-1);
  const auto old_node = vm().node_of("disk0");
  vm().control().execute(
      "blockdev-snapshot-sync",
      {{"device", "disk0"}, {"snapshot-file", (folder_ / "top.qcow2").string()}, {"format", "qcow2"}});
  const auto full = chain().run({"-inc", "auto"});
  EXPECT_EQ(full.exit_code, 0) << full.err;
  EXPECT_FALSE(contains(full.err, "keeps the bitmap")) << "nothing that can be done about it: " << full.err;
  const auto next = chain().run({"-inc", "auto"});
  EXPECT_EQ(next.exit_code, 0);
  EXPECT_EQ(next.err, "") << "quiet every night";
  const auto run = clean();
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(contains(run.err, old_bitmap) && contains(run.err, "snapshot")) << run.err;
  EXPECT_TRUE(contains(run.out, "removed 1 bitmap;")) << run.out;
  vm().control().execute("block-commit", {{"job-id", "commit"}, {"device", "disk0"}});
  wait_until("the commit", [&] {
    const auto jobs = vm().control().execute("query-jobs");
    return std::ranges::any_of(jobs, [](const json& job) { return job.at("status") == "ready"; });
  });
  vm().control().execute("job-complete", {{"id", "commit"}});
  wait_until("the pivot", [&] { return vm().control().execute("query-jobs").empty(); });
  EXPECT_EQ(clean().exit_code, 0);
  EXPECT_TRUE(vm().node(old_node).value("dirty-bitmaps", json::array()).empty());
}

// The bitmaps went along in the image: to find none here would look like success.
TEST_F(CleanBitmapTest, Of_A_VM_That_Was_Migrated_Away_Is_Refused) {
  chain().take(-1);
  vm().control().execute("migrate", {{"uri", "exec:cat > /dev/null"}});
  wait_until("its end", [&] { return vm().control().execute("query-migrate").value("status", "") == "completed"; });
  const auto run = clean();
  EXPECT_EQ(run.exit_code, 1) << run.err;
  EXPECT_TRUE(contains(run.err, "belong to another QEMU")) << run.err;
}

TEST_F(CleanBitmapTest, Base_Without_A_Manifest_Means_The_Bitmap_Of_The_Go_Tool) {
  chain().take(-1);
  add_bitmap("bitmap0");
  const auto run = clean({"-backupFile", base("made-by-the-go-tool")});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(bitmap_names(), std::vector{chain().bitmap(-1)});
}

TEST_F(CleanBitmapTest, Explicit_Incremental_Then_Needs_A_New_Full_And_Says_How) {
  chain().take(-1);
  ASSERT_EQ(clean().exit_code, 0);
  const auto run = chain().run({"-inc", "0", "--json"});
  EXPECT_EQ(run.exit_code, 3);
  const auto command = fmt::format("qmpbackup -socket {} -backupFile {} -deviceToBackup disk0 -inc auto",
                                   vm().socket().string(), base().string());
  EXPECT_TRUE(contains(run.err, command)) << run.err;
  const auto error = json_lines(run.out).back();
  EXPECT_EQ(error["message_type"], "error");
  EXPECT_EQ(error["code"], 3);
  EXPECT_TRUE(contains(error["message"], "no bitmap for level full")) << error;
  EXPECT_TRUE(contains(error["hint"], command)) << error;
}

TEST_F(CleanBitmapTest, Auto_Then_Takes_A_New_Full_And_Archives_The_Old_Chain) {
  chain().take(-1);
  vm().write("disk0", 0, MiB, 0x41);
  chain().take(0);
  const auto time = chain().manifest()["levels"][0]["time"].get<std::string>();  // 2026-11-22T02:00:00Z
  const auto archive = base().string() + "." + std::regex_replace(time, std::regex("[-:]"), "");
  Oracle archived(fs::path(archive) / "disk0");
  for (const int level : {-1, 0}) {  // what they hold now is what they must hold afterwards
    convert_to_raw(chain().file(level), "qcow2", folder_ / "archived.raw");
    archived.remember(level, folder_ / "archived.raw");
  }
  chain().expect_sound(0);
  ASSERT_EQ(clean().exit_code, 0);
  vm().write("disk0", MiB, MiB, 0x42);

  chain().oracle().forget_all();
  const auto run = chain().take_auto(-1, {"--json"});
  const auto summary = summary_of(run);
  EXPECT_EQ(summary["disks"][0]["level"], -1);
  EXPECT_TRUE(contains(summary["disks"][0]["reason"], "no bitmap for level inc0")) << summary;
  EXPECT_FALSE(summary["warnings"].empty());
  EXPECT_TRUE(contains(run.err, archive)) << run.err;
  chain().expect_sound(-1);
  EXPECT_EQ(archived.committed_levels(), (std::vector{-1, 0}));
  EXPECT_EQ(archived.check_all(), std::vector<std::string>());
  EXPECT_EQ(run_program({"sha256sum", "--strict", "-c", "disk0.sha256"}, {.working_folder = archive}).exit_code, 0);
  EXPECT_EQ(files_like(backups(), ""), (std::vector<std::string>{fs::path(archive).filename(), "disk0.chain.json",
                                                                 "disk0.full.qcow2", "disk0.lock", "disk0.sha256"}));
  const auto next = summary_of(chain().take_auto(0, {"--json"}));
  EXPECT_TRUE(next["disks"][0]["reason"].is_null());
  chain().expect_sound(0);
}

TEST_F(CleanBitmapTest, Auto_Takes_A_New_Full_After_Qemu_Was_Killed) {
  chain().take(-1);
  vm().restart();
  vm().kill();  // the bitmap in the image is inconsistent now
  vm().start();
  EXPECT_EQ(chain().run({"-inc", "0"}).exit_code, 3);
  chain().oracle().forget_all();
  const auto summary = summary_of(chain().take_auto(-1, {"--json"}));
  EXPECT_TRUE(contains(summary["disks"][0]["reason"], "inconsistent")) << summary;
  chain().take_auto(0);
  chain().expect_sound(0);
}

}  // namespace
}  // namespace qmpbackup::test
