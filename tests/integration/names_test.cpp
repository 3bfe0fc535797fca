// Whatever files and devices are called, and wherever they are.
#include "integration/scenario.hpp"

namespace qmpbackup::test {
namespace {

class NamesTest : public OneDiskTest {
 protected:
  // The restored disk, by qemu-img alone, as an operator in `folder` would do it.
  std::string difference_of_restored(const fs::path& folder, const std::string& file, const fs::path& expected) {
    const auto restored = folder_ / "restored.raw";
    const auto run = run_program({"qemu-img", "convert", "-O", "raw", file, restored}, {.working_folder = folder});
    return run.exit_code == 0 ? difference(expected, restored) : run.err;
  }
};

TEST_F(NamesTest, Any_Base_Makes_A_Chain_That_Restores) {
  std::vector<std::string> others;
  for (const std::string name :
       {"with space", R"(it's "quoted")", "100%d %s", "#1", "drähte-磁盘", "vm1:disk", "nbd:x", R"(back\slash)",
        "-leading", "--json", "json:{}", "a,b==c", "$(x);*?", ".hidden", "disk0.full", "tab\tnew\nline"}) {
    SCOPED_TRACE(name);
    TestChain named(vm(), "disk0", base(name));
    named.other_bitmaps = others;
    vm().write("disk0", 0, 64 * KiB, static_cast<std::uint8_t>(others.size() + 1));
    named.take(-1, {"--compress", "none"});
    vm().write("disk0", MiB, 64 * KiB, static_cast<std::uint8_t>(others.size() + 101));
    named.take(0);
    named.expect_sound(0);
    others.push_back(named.bitmap(0));
    const auto check =
        run_program({"sha256sum", "--strict", "-c", "--", name + ".sha256"}, {.working_folder = backups()});
    EXPECT_EQ(check.exit_code, 0) << check.err;
  }
}

TEST_F(NamesTest, Relative_Base_In_The_Current_Folder_Works) {
  for (const std::string name : {"vm1:disk", "-x", "./plain"}) {
    SCOPED_TRACE(name);
    const auto expected = vm().disk_content("disk0");
    for (const auto* level : {"-1", "0"}) {
      const auto run =
          run_program(backup_command(vm().socket(), name, "disk0", {"-inc", level}), {.working_folder = backups()});
      EXPECT_EQ(run.exit_code, 0) << run.err;
    }
    EXPECT_EQ(difference_of_restored(backups(), "./" + name + ".inc0.qcow2", expected), "");
  }
}

TEST_F(NamesTest, Moved_Folder_Restores_And_Goes_On) {
  const auto first = vm().disk_content("disk0");
  TestChain chain(vm(), "disk0", base("vm1:disk"));
  chain.take(-1);
  vm().write("disk0", 5 * MiB, 100 * KiB, 0x22);
  const auto second = vm().disk_content("disk0");
  chain.take(0);
  const auto elsewhere = folder_ / "other place";
  fs::rename(backups(), elsewhere);
  EXPECT_EQ(difference_of_restored("/", elsewhere / "vm1:disk.full.qcow2", first), "");
  EXPECT_EQ(difference_of_restored("/", elsewhere / "vm1:disk.inc0.qcow2", second), "");
  EXPECT_EQ(difference_of_restored(elsewhere, "./vm1:disk.inc0.qcow2", second), "");

  TestChain moved(vm(), "disk0", elsewhere / "vm1:disk");
  moved.oracle().remember(-1, first);
  moved.oracle().remember(0, second);
  moved.take(1);
  moved.expect_sound(1);
}

TEST_F(NamesTest, Unix_Prefix_Means_The_Same_Socket) {
  const auto run = run_program(backup_command("unix:" + vm().socket().string(), base(), "disk0"));
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(fs::exists(chain().file(-1)));
}

class TcpTest : public OneDiskTest {
 protected:
  VmOptions vm_options() override { return {.tcp_socket = true}; }
};

TEST_F(TcpTest, Levels_Are_Taken_By_Path) {
  for (const auto& name : {base("disk0").string(), base("vm1:disk, 100%").string(), std::string("relative"),
                           std::string("vm1:relative")}) {
    SCOPED_TRACE(name);
    for (const auto* level : {"-1", "0"}) {
      const auto expected = vm().disk_content("disk0");
      const auto run = run_program(backup_command(vm().tcp_address(), name, "disk0", {"-inc", level}),
                                   {.working_folder = backups()});
      ASSERT_EQ(run.exit_code, 0) << run.err << vm().log();
      const auto file = backups() / fmt::format("{}.{}.qcow2", name, level_name(std::stoi(level)));
      EXPECT_EQ(fs::status(file).permissions(), fs::perms::owner_read | fs::perms::owner_write);
      convert_to_raw(file, "qcow2", folder_ / "restored.raw");
      EXPECT_EQ(difference(expected, folder_ / "restored.raw"), "");
      vm().write("disk0", 2 * MiB, 64 * KiB, 0x23);
    }
  }
  EXPECT_EQ(vm().our_leftovers(), std::vector<std::string>());
  EXPECT_EQ(files_like(backups(), "partial"), std::vector<std::string>());
}

// The tool runs with another folder mounted at that place.
TEST_F(TcpTest, Qemu_That_Sees_Another_Folder_Is_Refused_Before_The_Copy) {
  QMPBACKUP_REQUIRE(std::string(run_program({"unshare", "-m", "true"}).exit_code == 0 ? "" : "unshare -m needs root"));
  for (const bool same_name : {false, true}) {
    const auto theirs = backups() / "disk0.full.qcow2.partial";
    if (same_name) {
      make_image(theirs, "qcow2", fs::file_size(vm().disk_content("disk0")));
    }
    const auto before = same_name ? read_file(theirs) : "";
    const auto run =
        run_program(Arguments{"unshare", "-m", "sh", "-c", "mount -t tmpfs none \"$0\" && exec \"$@\"", backups()} +
                    backup_command(vm().tcp_address(), base(), "disk0"));
    EXPECT_EQ(run.exit_code, 1) << run.out;
    EXPECT_TRUE(contains(run.err, same_name ? "opened another file" : "cannot open")) << run.err;
    EXPECT_TRUE(contains(run.err, "see the same folders")) << run.err;
    EXPECT_TRUE(!same_name || read_file(theirs) == before);
    EXPECT_EQ(vm().our_leftovers(), std::vector<std::string>());
  }
}

TEST_F(IntegrationTest, Device_And_Image_Names_May_Hold_Anything_That_Qemu_Takes) {
  auto disk = new_disk("disk0", 4 * MiB);
  const auto image = folder_ / "my disk #1 \"x\".qcow2";
  fs::rename(disk.image, image);
  disk.image = image;
  make_image(folder_ / "second.qcow2", "qcow2", MiB);
  const std::string id = "web #1/disk";  // -device takes any id as JSON
  QemuVm vm(
      folder_, {disk},
      {.extra_arguments = {"-blockdev", "node-name=s-file,driver=file,filename=" + (folder_ / "second.qcow2").string(),
                           "-blockdev", "node-name=s,driver=qcow2,file=s-file", "-device",
                           json{{"driver", "virtio-blk-pci"}, {"id", id}, {"drive", "s"}}.dump()}});
  vm.start();
  TestChain chain(vm, "disk0", base());
  chain.take(-1);
  chain.take(0);
  chain.expect_sound(0);
  for (const auto& [device, name] :
       {std::pair{id, "by-id"}, {"/machine/peripheral/" + id + "/virtio-backend", "by-path"}}) {
    const auto run = run_program(backup_command(vm.socket(), base(name), device));
    EXPECT_EQ(run.exit_code, 0) << run.err;
  }
}

class OtherUserTest : public OneDiskTest {
 protected:
  void SetUp() override {
    QMPBACKUP_REQUIRE(std::string(::geteuid() == 0 ? "" : "running QEMU as another user needs root"));
    OneDiskTest::SetUp();
  }
  VmOptions vm_options() override { return {.run_as_user = "nobody"}; }
};

TEST_F(OtherUserTest, Qemu_Needs_No_Right_On_The_Backup_Folder) {
  fs::permissions(backups(), fs::perms::owner_all);
  chain().take(-1);
  vm().write("disk0", 0, 100 * KiB, 0x24);
  chain().take(0, {"--buffered"});
  chain().expect_sound(0);
  for (const auto& name : files_like(backups(), "")) {
    struct stat info {};
    ASSERT_EQ(::stat((backups() / name).c_str(), &info), 0);
    EXPECT_EQ(info.st_uid, ::geteuid()) << name;
    EXPECT_EQ(info.st_mode & 07777U, 0600U) << name;
  }
}

TEST_F(OtherUserTest, Folder_That_May_Not_Be_Written_Is_Refused) {
  const RunOptions as_nobody{.user = "nobody"};
  const fs::path binary = folder_ / "qmpbackup";  // where nobody may run it, wherever it was built
  fs::copy_file(tool_binary(), binary);
  fs::permissions(backups(), fs::perms::owner_all | fs::perms::group_read | fs::perms::group_exec |
                                 fs::perms::others_read | fs::perms::others_exec);
  auto command = backup_command(vm().socket(), base(), "disk0");
  command.front() = binary.string();
  const auto run = run_program(command, as_nobody);
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_TRUE(contains(run.err, backups().string())) << run.err;
  EXPECT_EQ(files_like(backups(), ""), std::vector<std::string>());
  chain().expect_no_chain();
}

}  // namespace
}  // namespace qmpbackup::test
