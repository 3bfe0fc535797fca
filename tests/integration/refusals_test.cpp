// What is refused before anything is changed, and how a chain goes on after that.
#include "integration/scenario.hpp"

namespace qmpbackup::test {
namespace {

class RefusalTest : public OneDiskTest {
 protected:
  struct Expected {
    int exit_code;
    std::string words;  // in the error
  };
  // The run fails with one line, and folder and VM are as before.
  void expect_refusal(const Arguments& arguments, const Expected& expected) {
    const auto before = state();
    const auto run = chain().run(arguments);
    EXPECT_EQ(run.exit_code, expected.exit_code) << run.err;
    EXPECT_TRUE(contains(run.err, expected.words)) << expected.words << " is not in: " << run.err;
    EXPECT_TRUE(run.err.starts_with("qmpbackup: error: ")) << run.err;
    EXPECT_EQ(std::ranges::count(run.err, '\n'), 1) << run.err;
    EXPECT_EQ(run.out, "");
    EXPECT_EQ(state(), before);
  }

 private:
  std::string state() {
    std::string text = fmt::format("{}\n{}", fmt::join(vm().our_bitmaps("disk0"), " "),
                                   fmt::join(vm().our_leftovers(fdsets_of(vm())), " "));
    for (const auto& name : files_like(backups(), "")) {
      if (!name.ends_with(".lock")) {
        text += "\n" + name + " " + (fs::is_directory(backups() / name) ? "" : read_file(backups() / name));
      }
    }
    return text;
  }
};

TEST_F(RefusalTest, Full_Over_A_Chain) {
  chain().take(-1);
  expect_refusal({}, {1, "exists already"});
  chain().take(0);
  expect_refusal({"-inc", "-1"}, {1, "exists already"});
  chain().expect_sound(0);
}

TEST_F(RefusalTest, Level_Twice_And_Gap) {
  chain().take(-1);
  expect_refusal({"-inc", "1"}, {1, "needs level inc0"});
  chain().take(0);
  expect_refusal({"-inc", "0"}, {1, "exists already"});
  expect_refusal({"-inc", "2"}, {1, "needs level inc1"});
  chain().expect_sound(0);
}

TEST_F(RefusalTest, Incremental_Without_A_Full) {
  expect_refusal({"-inc", "0"}, {3, "there is no full backup"});
  expect_refusal({"-inc", "3"}, {3, "-inc auto"});
}

TEST_F(RefusalTest, File_That_The_Manifest_Does_Not_Know) {
  chain().take(-1);
  write_file(chain().file(0), "precious");
  expect_refusal({"-inc", "0"}, {3, chain().file(0).filename()});
  EXPECT_EQ(read_file(chain().file(0)), "precious");
}

TEST_F(RefusalTest, Level_File_That_Is_Gone_Cut_Or_Swapped) {
  chain().take(-1);
  chain().take(0);
  const auto kept = folder_ / "kept";
  fs::rename(chain().file(-1), kept);
  expect_refusal({"-inc", "1"}, {3, "disk0.full.qcow2"});
  fs::copy(chain().file(0), chain().file(-1));
  expect_refusal({"-inc", "1"}, {3, "disk0.full.qcow2"});
  fs::rename(kept, chain().file(-1));
  fs::copy(chain().file(0), kept);
  fs::resize_file(chain().file(0), fs::file_size(chain().file(0)) - 512);
  expect_refusal({"-inc", "1"}, {3, "disk0.inc0.qcow2"});
  fs::rename(kept, chain().file(0));
  chain().take(1);
  chain().expect_sound(1);
}

TEST_F(RefusalTest, File_That_Appears_During_The_Backup_Is_Not_Overwritten) {
  chain().take(-1);
  vm().write("disk0", 0, 2 * MiB, 0x21);
  auto run = start_slow_run({"-inc", "0"});
  write_file(chain().file(0), "somebody's");
  unlimit_backup_job();
  EXPECT_EQ(run.wait().exit_code, 1) << run.err();
  EXPECT_TRUE(contains(run.err(), "appeared during the backup")) << run.err();
  EXPECT_EQ(read_file(chain().file(0)), "somebody's");
  fs::remove(chain().file(0));
  chain().expect_sound(-1);
  chain().take(0);
  chain().expect_sound(0);
}

TEST_F(RefusalTest, Files_That_Cannot_Be_Read_Are_No_Damage) {
  QMPBACKUP_REQUIRE(std::string(::geteuid() == 0 ? "" : "running the tool as another user needs root"));
  chain().take(-1);
  fs::permissions(folder_.path(), fs::perms::others_exec, fs::perm_options::add);
  fs::permissions(backups(), fs::perms::all);
  const auto manifest = chain().manifest();
  for (const auto& file : {Oracle(base()).manifest(), chain().file(-1)}) {
    // As that user everything else can be read.
    fs::permissions(Oracle(base()).manifest(), fs::perms(0644));
    fs::permissions(chain().file(-1), fs::perms(0644));
    fs::permissions(file, fs::perms(0600));
    for (const auto* command : {"list", "verify", "restore"}) {
      auto arguments = tool(command, "-backupFile", base());
      if (std::string(command) == "restore") {
        arguments = arguments + Arguments{"--output", backups() / "restored"};
      }
      const auto run = run_program(arguments, {.user = "nobody"});
      EXPECT_EQ(run.exit_code, 1) << command << run.out << run.err;
      EXPECT_TRUE(contains(run.err, file.string() + ": Permission denied")) << command << run.err;
    }
  }
  EXPECT_EQ(chain().manifest(), manifest);
  fs::permissions(Oracle(base()).manifest(), fs::perms(0600));
  fs::permissions(chain().file(-1), fs::perms(0600));
  chain().expect_sound(-1);
}

TEST_F(RefusalTest, Without_Qemu_Img_It_Says_So_At_Once) {
  const auto run = run_program(chain().command(), {.environment = {{"PATH", "/nowhere"}}});
  EXPECT_EQ(run.exit_code, 1) << run.err;
  EXPECT_TRUE(contains(run.err, "qemu-img is not on PATH")) << run.err;
  EXPECT_EQ(files_like(backups(), ""), std::vector<std::string>());
}

TEST_F(RefusalTest, Missing_Folder) {
  fs::remove(backups());
  const auto run = chain().run({});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_TRUE(contains(run.err, "there is no folder " + backups().string())) << run.err;
  EXPECT_FALSE(fs::exists(backups()));
}

TEST_F(RefusalTest, Nothing_Listens) {
  vm().stop_cleanly();
  const auto run = chain().run({});
  EXPECT_EQ(run.exit_code, 4);
  EXPECT_TRUE(contains(run.err, vm().socket().string())) << run.err;
  EXPECT_FALSE(fs::exists(chain().oracle().manifest()));
}

TEST_F(RefusalTest, Migration_Under_Way) {
  chain().take(-1);
  auto& control = vm().control();
  control.execute("migrate-set-capabilities",
                  {{"capabilities", {{{"capability", "pause-before-switchover"}, {"state", true}}}}});
  control.execute("migrate", {{"uri", "exec:cat > /dev/null"}});
  wait_until("the switchover",
             [&] { return control.execute("query-migrate").value("status", "") == "pre-switchover"; });
  expect_refusal({"-inc", "0"}, {1, "migration"});
  expect_refusal({"-inc", "auto"}, {1, "migration"});
  control.execute("migrate_cancel");
  wait_until("its end", [&] { return control.execute("query-migrate").value("status", "") == "cancelled"; });
  chain().take(0);
  chain().expect_sound(0);
}

TEST_F(RefusalTest, Disk_That_Shrank_Or_Was_Cut_In_Between) {
  chain().take(-1);
  vm().resize("disk0", disk_size - 2 * MiB);
  expect_refusal({"-inc", "0"}, {3, "shrunk"});
  vm().resize("disk0", disk_size);
  expect_refusal({"-inc", "0"}, {3, "shrunk and grown"});
  chain().oracle().forget_all();
  chain().take_auto(-1);
  vm().resize("disk0", disk_size + 512);
  vm().write("disk0", disk_size, 512, 0x55);
  chain().take(0);  // growing is fine
  chain().expect_sound(0);
}

TEST_F(RefusalTest, Bitmap_That_Is_Gone) {
  chain().take(-1);
  vm().control().execute("block-dirty-bitmap-remove", {{"node", vm().node_of("disk0")}, {"name", chain().bitmap(-1)}});
  expect_refusal({"-inc", "0"}, {3, "no bitmap for level full"});
}

TEST_F(RefusalTest, Empty_Image_Made_Beforehand_Is_Used) {
  make_image(chain().file(-1), "qcow2", disk_size);
  chain().take(-1);
  chain().take(0);
  chain().expect_sound(0);
  EXPECT_EQ(fs::status(chain().file(-1)).permissions(), fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(RefusalTest, Image_Made_Beforehand_That_Is_Not_Empty_Or_Has_Another_Size) {
  make_image(chain().file(-1), "qcow2", disk_size + 512);
  expect_refusal({}, {1, "bytes"});
  fs::remove(chain().file(-1));
  make_image(chain().file(-1), "qcow2", disk_size);
  run_checked({"qemu-io", "-c", "write 1M 512", chain().file(-1)});
  expect_refusal({}, {1, "exists already"});
  write_file(chain().file(-1), "precious");
  expect_refusal({}, {1, "exists already"});
  EXPECT_EQ(read_file(chain().file(-1)), "precious");
}

TEST_F(RefusalTest, Full_Folder) {
  const TmpfsFolder small(5 * MiB);
  QMPBACKUP_REQUIRE_TMPFS(small);
  const auto command = backup_command(vm().socket(), small / "disk0", "disk0");
  const auto run = run_program(command);
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_TRUE(contains(run.err, "free")) << run.err;
  const auto forced = run_program(command + Arguments{"--no-space-check", "--compress", "none"});
  EXPECT_EQ(forced.exit_code, 1) << "the disk is full before the backup is complete";
  EXPECT_EQ(files_like(small.path(), "").size(), 1U) << "the lock alone";
  EXPECT_EQ(vm().our_leftovers(fdsets_of(vm())), std::vector<std::string>());
  EXPECT_TRUE(vm().our_bitmaps("disk0").empty());
}

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
