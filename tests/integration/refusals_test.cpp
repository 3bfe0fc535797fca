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

class SomebodyElse : public RefusalTest {
 protected:
  void SetUp() override {
    QMPBACKUP_REQUIRE(std::string(::geteuid() == 0 ? "" : "running the tool as another user needs root"));
    RefusalTest::SetUp();
  }
  // As a user who may do everything but read `file`.
  ProgramResult run_without(const fs::path& file, const Arguments& arguments) {
    for (const auto& folder : {folder_.path(), vm().socket().parent_path()}) {
      fs::permissions(folder, fs::perms::others_exec, fs::perm_options::add);
    }
    for (const auto& open : {vm().socket(), backups()}) {
      fs::permissions(open, fs::perms::all);
    }
    for (const auto& name : files_like(backups(), "^disk0")) {
      if (!fs::is_symlink(backups() / name)) {
        fs::permissions(backups() / name, backups() / name == file ? fs::perms(0600) : fs::perms(0666));
      }
    }
    const auto run = run_program(arguments, {.user = "nobody"});
    EXPECT_TRUE(file.empty() || contains(run.out + run.err, file.string() + ": Permission denied"))
        << run.out << run.err;
    return run;
  }
};

TEST_F(SomebodyElse, Learns_Nothing_Without_The_Manifest) {
  chain().take(-1);
  const auto file = Oracle(base()).manifest();
  const Arguments output{"--output", backups() / "restored"};
  EXPECT_EQ(run_without(file, tool("list", "-backupFile", base())).exit_code, 1);
  EXPECT_EQ(run_without(file, tool("verify", "-backupFile", base())).exit_code, 1);
  EXPECT_EQ(run_without(file, tool("restore", "-backupFile", base()) + output).exit_code, 1);
  EXPECT_EQ(run_without(file, chain().command({"-inc", "auto"})).exit_code, 1);
}

TEST_F(SomebodyElse, Restores_The_Levels_Below_One_That_Cannot_Be_Read) {
  chain().take(-1);
  chain().take(0);
  const auto manifest = chain().manifest();
  const auto file = chain().file(0);
  const Arguments restore = tool("restore", "-backupFile", base(), "--output", backups() / "restored");
  EXPECT_EQ(run_without(file, tool("list", "-backupFile", base())).exit_code, 0);
  const auto verify = run_without(file, tool("verify", "-backupFile", base()));
  EXPECT_EQ(verify.exit_code, 1) << "that is no damage";
  EXPECT_TRUE(contains(verify.out, "UNREADABLE") && contains(verify.out, "restores: full\n")) << verify.out;
  EXPECT_TRUE(contains(verify.err, "check owner and mode")) << verify.err;
  const auto newest = run_without(file, restore);
  EXPECT_EQ(newest.exit_code, 1);
  EXPECT_TRUE(contains(newest.err, "full (-inc -1)")) << newest.err;
  EXPECT_EQ(run_program(restore + Arguments{"-inc", "-1"}, {.user = "nobody"}).exit_code, 0);
  EXPECT_EQ(run_without(file, chain().command({"-inc", "auto"})).exit_code, 1) << "that is no reason for a new full";
  EXPECT_EQ(chain().manifest(), manifest);
  const auto away = folder_ / "away";
  fs::create_directory(away);
  fs::permissions(away, fs::perms::owner_all);
  fs::rename(file, away / "level");
  fs::create_symlink(away / "level", file);
  const auto full = run_without("", restore + Arguments{"-inc", "-1", "--force"});
  EXPECT_TRUE(contains(full.err, "exists already")) << "that level can be restored: " << full.err;
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
  EXPECT_EQ(files_like(small.path(), "").size(), 0U);
  EXPECT_EQ(vm().our_leftovers(fdsets_of(vm())), std::vector<std::string>());
  EXPECT_TRUE(vm().our_bitmaps("disk0").empty());
}

}  // namespace
}  // namespace qmpbackup::test
