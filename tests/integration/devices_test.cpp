// What can be backed up, and by which name.
#include "integration/scenario.hpp"

namespace qmpbackup::test {
namespace {

constexpr std::uint64_t size = 8 * MiB;

struct DeviceCase {
  const char* name;
  void (*adapt)(DiskSpec&);
  std::string device;  // <node> and <path> stand for what QEMU calls them
  const char* image_options = "";
  bool transient = false;  // its bitmaps do not outlive QEMU
  friend void PrintTo(const DeviceCase& printed, std::ostream* out) { *out << printed.name; }
};

class DeviceTest : public IntegrationTest, public testing::WithParamInterface<DeviceCase> {};

TEST_P(DeviceTest, Chain_Of_The_Device_Restores) {
  const auto& param = GetParam();
  DiskSpec disk{.id = "disk0", .image = folder_ / "disk0.image"};
  param.adapt(disk);
  make_image(disk.image, disk.format, size, param.image_options);
  QemuVm vm(folder_, {disk});
  vm.start();
  TestChain chain(vm, "disk0", base());
  chain.set_device(param.device == "<node>"   ? vm.node_of("disk0")
                   : param.device == "<path>" ? vm.qdev_path("disk0")
                                              : param.device);
  vm.write("disk0", MiB, MiB, 0x31);
  const auto full = chain.take(-1);
  vm.write("disk0", MiB + 512, 512, 0x32);
  vm.discard("disk0", MiB + 64 * KiB, 128 * KiB);
  const auto incremental = chain.take(0);
  chain.expect_sound(0);
  const auto warning = "when QEMU exits, the next backup must be a full";
  EXPECT_EQ(contains(full.err, warning), param.transient) << full.err;
  EXPECT_FALSE(contains(incremental.err, warning)) << "every night: " << incremental.err;
  vm.restart();
  EXPECT_EQ(vm.our_bitmaps("disk0").empty(), param.transient);
  if (param.transient) {
    EXPECT_EQ(chain.run({"-inc", "1"}).exit_code, 3);
  }
}

constexpr auto as_it_is = [](DiskSpec&) {};
constexpr auto blockdev = [](DiskSpec& disk) { disk.style = DiskSpec::Style::Blockdev; };
constexpr auto throttled = [](DiskSpec& disk) { disk.throttle = true; };
constexpr auto throttled_blockdev = [](DiskSpec& disk) {
  blockdev(disk);
  throttled(disk);
};
constexpr auto with_iothread = [](DiskSpec& disk) { disk.iothread = true; };
constexpr auto all_on_top = [](DiskSpec& disk) {
  throttled_blockdev(disk);
  with_iothread(disk);
};
constexpr auto copy_on_read = [](DiskSpec& disk) { disk.extra = "copy-on-read=on"; };
constexpr auto direct_io = [](DiskSpec& disk) { disk.extra = "cache=none"; };
constexpr auto raw = [](DiskSpec& disk) { disk.format = "raw"; };
constexpr auto raw_blockdev = [](DiskSpec& disk) {
  blockdev(disk);
  raw(disk);
};

INSTANTIATE_TEST_SUITE_P(
    By, DeviceTest,
    testing::Values(
        DeviceCase{"Device_Name", as_it_is, "disk0"}, DeviceCase{"Qdev_Id", as_it_is, "disk0-dev"},
        DeviceCase{"Qdev_Path", as_it_is, "<path>"}, DeviceCase{"Generated_Node_Name", as_it_is, "<node>"},
        DeviceCase{"Blockdev_By_Qdev_Id", blockdev, "disk0-dev"},
        DeviceCase{"Blockdev_By_Qdev_Path", blockdev, "<path>"},
        DeviceCase{"Blockdev_By_Node_Name", blockdev, "disk0-fmt"}, DeviceCase{"Throttled_Drive", throttled, "disk0"},
        DeviceCase{"Throttle_Node_By_Qdev_Id", throttled_blockdev, "disk0-dev"},
        DeviceCase{"Throttle_Node_By_Its_Name", throttled_blockdev, "disk0-throttle"},
        DeviceCase{"Node_Below_Throttle", throttled_blockdev, "disk0-fmt"},
        DeviceCase{"Iothread", with_iothread, "disk0"}, DeviceCase{"Iothread_Over_Throttle", all_on_top, "disk0-dev"},
        DeviceCase{"Copy_On_Read", copy_on_read, "disk0"}, DeviceCase{"Direct_Io", direct_io, "disk0"},
        DeviceCase{"Raw", raw, "disk0", "", true}, DeviceCase{"Raw_Blockdev", raw_blockdev, "disk0-dev", "", true},
        DeviceCase{"Qcow2_Version_2", as_it_is, "disk0", "compat=0.10", true},
        DeviceCase{"Qcow2_With_Small_Clusters", as_it_is, "disk0", "cluster_size=4096"},
        DeviceCase{"Qcow2_With_Extended_L2", as_it_is, "disk0", "extended_l2=on"}),
    [](const auto& param) { return param.param.name; });

class DevicesTest : public IntegrationTest {};

TEST_F(DevicesTest, Full_Of_An_Overlay_Holds_Its_Base_Too) {
  const auto golden = new_disk("golden", size);
  run_checked({"qemu-io", "-c", "write -P 0x41 0 2M", golden.image});
  DiskSpec disk{.id = "disk0", .image = folder_ / "overlay.qcow2"};
  run_checked({"qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", golden.image, disk.image});
  QemuVm vm(folder_, {disk});
  vm.start();
  TestChain chain(vm, "disk0", base());
  vm.write("disk0", MiB, MiB, 0x42);
  chain.take(-1);
  vm.discard("disk0", 0, 512 * KiB);
  chain.take(0);
  fs::remove(golden.image);
  chain.expect_sound(0);
}

TEST_F(DevicesTest, Node_That_No_Device_Uses_Is_Backed_Up) {
  const auto lone = new_disk("lone", size);
  QemuVm vm(folder_, {new_disk("disk0", size)},
            {.extra_arguments = {"-blockdev", "node-name=lone-file,driver=file,filename=" + lone.image.string(),
                                 "-blockdev", "node-name=lone,driver=qcow2,file=lone-file"}});
  vm.start();
  const auto io = [&](const std::string& command) { vm.control().hmp("qemu-io lone \"" + command + "\""); };
  Oracle oracle(base("lone"));
  for (int level = -1; level < 1; ++level) {
    io(fmt::format("write -P {} {}k 100k", level + 7, (level + 1) * 90));
    io("flush");
    convert_to_raw(lone.image, "qcow2", folder_ / "expected.raw");
    oracle.remember(level, folder_ / "expected.raw");
    const auto run = run_program(backup_command(vm.socket(), base("lone"), "lone", {"-inc", std::to_string(level)}));
    EXPECT_EQ(run.exit_code, 0) << run.err;
  }
  EXPECT_EQ(oracle.committed_levels(), (std::vector{-1, 0}));
  EXPECT_EQ(oracle.check_all(), std::vector<std::string>());
}

TEST_F(DevicesTest, Unknown_Device_Is_Answered_With_Those_There_Are) {
  QemuVm vm(folder_, {new_disk("disk0", size), new_disk("disk1", 3 * MiB)},
            {.extra_arguments = {"-device", "ide-cd,id=cd0"}});
  vm.start();
  TestChain chain(vm, "disk0", base());
  for (const auto* device : {"disk7", "cd0", "disk0-file"}) {
    chain.set_device(device);
    const auto run = chain.run({});
    EXPECT_EQ(run.exit_code, 1);
    for (const auto& part : {std::string(device), "disk0 (" + (folder_ / "disk0.qcow2").string() + ", 8.0 MiB)",
                             "disk1 (" + (folder_ / "disk1.qcow2").string() + ", 3.0 MiB)"}) {
      EXPECT_TRUE(contains(run.err, part)) << part << " is not in: " << run.err;
    }
    EXPECT_EQ(std::ranges::count(run.err, '\n'), 1) << run.err;
  }
  chain.expect_no_chain();
}

TEST_F(DevicesTest, Two_Disks_Have_A_Chain_Each) {
  QemuVm vm(folder_, {new_disk("disk0", size), new_disk("disk1", 3 * MiB)});
  vm.start();
  TestChain first(vm, "disk0", base("disk0"));
  TestChain second(vm, "disk1", base("disk1"));
  for (int level = -1; level < 2; ++level) {
    vm.write("disk0", static_cast<std::uint64_t>(level + 1) * MiB, 100 * KiB, 0x51);
    first.take(level);
    vm.write("disk1", static_cast<std::uint64_t>(level + 1) * MiB, 50 * KiB, 0x52);
    second.take(level);
  }
  first.expect_sound(1);
  second.expect_sound(1);
}

TEST_F(DevicesTest, Base_Of_Another_Disk_Is_Refused) {
  QemuVm vm(folder_, {new_disk("disk0", size), new_disk("disk1", size)});
  vm.start();
  TestChain chain(vm, "disk0", base());
  chain.take(-1);
  for (const auto* level : {"-1", "0", "auto"}) {
    const auto run = run_program(backup_command(vm.socket(), base(), "disk1", {"-inc", level}));
    EXPECT_EQ(run.exit_code, 1) << level << run.err;
  }
  EXPECT_TRUE(vm.our_bitmaps("disk1").empty());
  chain.expect_sound(-1);
}

TEST_F(DevicesTest, Base_Of_Another_Vm_Is_Refused) {
  const auto uuid = [](int last) { return fmt::format("7a2c3e4f-0000-4000-8000-00000000000{}", last); };
  QemuVm web1(folder_, {new_disk("disk0", size)}, {.name = "web1", .uuid = uuid(1)});
  web1.start();
  TestChain chain(web1, "disk0", base());
  chain.take(-1);
  TempFolder elsewhere;
  DiskSpec disk{.id = "disk0", .image = elsewhere / "disk0.qcow2"};
  make_image(disk.image, "qcow2", size);
  QemuVm web2(elsewhere, {disk}, {.name = "web2", .uuid = uuid(2)});
  web2.start();
  const auto refused = [&](const Arguments& level) {
    const auto run = run_program(backup_command(web2.socket(), base(), "disk0", level));
    EXPECT_EQ(run.exit_code, 1) << run.err;
    EXPECT_TRUE(contains(run.err, "web1") && contains(run.err, "web2")) << run.err;
  };
  refused({"-inc", "auto"});
  refused({"-inc", "0"});
  // A run of web1 that was killed is web1's to take up.
  BackgroundProgram run(chain.command({"-inc", "0", "--speed-limit", "32K", "--compress", "none"}));
  wait_for_backup_job(web1, run);
  run.send_signal(SIGKILL);
  run.wait();
  refused({"-inc", "auto"});
  EXPECT_TRUE(chain.manifest().contains("pending"));
  web1.control().execute("block-job-set-speed", {{"device", backup_job(web1)}, {"speed", 0}});
  chain.remember(0);
  EXPECT_EQ(chain.run({"-inc", "0"}).exit_code, 0);
  chain.expect_sound(0);
}

TEST_F(DevicesTest, Chains_Of_One_Device_Do_Not_Disturb_Each_Other) {
  QemuVm vm(folder_, {new_disk("disk0", size)});
  vm.start();
  TestChain daily(vm, "disk0", base("daily"));
  TestChain weekly(vm, "disk0", base("weekly"));
  vm.write("disk0", 0, 2 * MiB, 0x61);
  daily.take(-1);
  vm.write("disk0", MiB, MiB, 0x62);
  weekly.take(-1);
  vm.write("disk0", 2 * MiB, MiB, 0x63);
  daily.take(0);
  vm.write("disk0", 3 * MiB, MiB, 0x64);
  daily.take(1);
  weekly.take(0);
  daily.other_bitmaps = {weekly.bitmap(0)};
  weekly.other_bitmaps = {daily.bitmap(1)};
  daily.expect_sound(1);
  weekly.expect_sound(0);
}

}  // namespace
}  // namespace qmpbackup::test
