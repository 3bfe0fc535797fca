// What a restored level is good for: a VM boots from it at once, it is served over NBD, it fills a block device.
#include <fcntl.h>
#include <sys/stat.h>

#include <fstream>
#include <map>
#include <sstream>

#include "integration/scenario.hpp"
#include "support/loop_device.hpp"
#include "support/unix_socket.hpp"

namespace qmpbackup::test {

namespace {

// mov al, VALUE; out 0xf4, al; hlt: ends a QEMU that has an isa-debug-exit there, with exit code 2 * VALUE + 1.
std::string boot_sector(char value) {
  std::string sector(512, '\0');
  const std::string program{'\xb0', value, '\xe6', '\xf4', '\xf4'};
  sector.replace(0, program.size(), program);
  sector[510] = '\x55';
  sector[511] = '\xaa';
  return sector;
}

class RestoreTest : public IntegrationTest {
 protected:
  static constexpr char first_value = 20;
  static constexpr std::uint8_t second_value = 21;

  void SetUp() override {
    IntegrationTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) {
      return;
    }
    std::string bytes = boot_sector(first_value);
    for (std::uint64_t i = 0; bytes.size() < 3 * MiB; ++i) {
      bytes += fmt::format("{:x} ", i * 0x9e3779b97f4a7c15ULL);
    }
    bytes.resize(64 * MiB);
    write_file(folder_ / "disk.raw", bytes);
    run_checked({"qemu-img", "convert", "-O", "qcow2", folder_ / "disk.raw", folder_ / "disk0.qcow2"});
    QemuVm vm(folder_, {{.id = "disk0", .image = folder_ / "disk0.qcow2"}});
    vm.start();
    TestChain chain(vm, "disk0", base());
    contents_.push_back(bytes);
    chain.take(-1);
    vm.write("disk0", 1, 1, second_value);
    vm.write("disk0", 40 * MiB, 64 * KiB, 0x77);
    vm.flush("disk0");
    contents_.push_back(read_file(vm.disk_content("disk0")));
    chain.take(0);
  }

  Arguments restore_command(const Arguments& more) const { return tool("restore", "-backupFile", base()) + more; }
  ProgramResult restore(const Arguments& more) const { return run_program(restore_command(more)); }

  // Exit code of a VM that is started as `said` tells after "start a VM from it: ".
  static int boot(const std::string& said) {
    const std::string lead = "start a VM from it: ";
    const auto from = said.find(lead) + lead.size();
    const std::string command = said.substr(from, said.find('\n', from) - from);
    return run_program({"sh", "-c",
                        "exec " + command +
                            " -m 64 -display none -nodefaults -machine accel=kvm:tcg "
                            "-device isa-debug-exit,iobase=0xf4,iosize=0x04"},
                       {.timeout = seconds(60)})
        .exit_code;
  }
  static constexpr int exit_code_of(int value) { return 2 * value + 1; }

  std::map<std::string, std::string> chain_files() const {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::directory_iterator(backups())) {
      files[entry.path().filename()] = read_file(entry.path());
    }
    return files;
  }

  std::vector<std::string> contents_;
};

TEST_F(RestoreTest, Guest_Boots_From_An_Overlay_As_It_Was_At_That_Level) {
  const auto before = chain_files();
  const std::string output = folder_ / "an overlay, with a comma.qcow2";
  const ProgramResult newest = restore({"--overlay", "--output", output});
  ASSERT_EQ(newest.exit_code, 0) << newest.err;
  EXPECT_EQ(boot(newest.out), exit_code_of(second_value)) << newest.out;
  const ProgramResult full = restore({"--overlay", "-inc", "-1", "--output", folder_ / "full.qcow2"});
  ASSERT_EQ(full.exit_code, 0) << full.err;
  EXPECT_EQ(boot(full.out), exit_code_of(first_value)) << full.out;
  EXPECT_TRUE(chain_files() == before) << "a guest wrote into the chain";
}

TEST_F(RestoreTest, Overlay_Becomes_Independent_By_The_Command_That_Is_Printed) {
  const std::string output = folder_ / "an overlay.qcow2";
  const json summary = summary_of(restore({"--overlay", "--json", "--output", output}));
  run_checked({"sh", "-c", summary.at("make_independent").get<std::string>()});
  fs::remove_all(backups());
  run_checked({"qemu-img", "convert", "-O", "raw", output, folder_ / "copy.raw"});
  EXPECT_TRUE(read_file(folder_ / "copy.raw") == contents_[1]);
}

TEST_F(RestoreTest, Guest_Boots_From_A_Copy_In_Either_Format) {
  for (const char* format : {"qcow2", "raw"}) {
    const ProgramResult result = restore({"--format", format, "--output", folder_ / (std::string("copy.") + format)});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(boot(result.out), exit_code_of(second_value)) << result.out;
  }
}

TEST_F(RestoreTest, Copy_Is_Sparse) {
  for (const char* format : {"qcow2", "raw"}) {
    const std::string output = folder_ / (std::string("copy.") + format);
    ASSERT_EQ(restore({"--format", format, "--output", output}).exit_code, 0);
    struct stat info {};
    ASSERT_EQ(::stat(output.c_str(), &info), 0);
    EXPECT_LT(static_cast<std::uint64_t>(info.st_blocks) * 512, 8 * MiB) << format << ", of a disk of 64 MiB";
  }
}

TEST_F(RestoreTest, Checksums_Are_Compared_Unless_Told_Otherwise) {
  const fs::path level = base().string() + ".inc0.qcow2";
  std::string bytes = read_file(level);
  bytes[3000] ^= 1;  // between the header and the tables: QEMU does not read it
  write_file(level, bytes);
  const std::string output = folder_ / "copy.raw";
  const ProgramResult refused = restore({"--format", "raw", "--output", output});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_TRUE(contains(refused.err, "full (-inc -1)")) << refused.err;
  ASSERT_EQ(restore({"--format", "raw", "--output", output, "--no-checksum"}).exit_code, 0);
  EXPECT_TRUE(read_file(output) == contents_[1]);
  bytes.resize(bytes.size() / 2);
  write_file(level, bytes);
  EXPECT_EQ(restore({"--output", folder_ / "copy.qcow2", "--no-checksum"}).exit_code, 1) << "all else is looked at";
}

TEST_F(RestoreTest, Raw_Copy_Is_Made_With_Linux_Aio_And_Where_There_Is_None) {
  fs::create_directory(folder_ / "bin");
  for (const char* fails : {"*'-O raw'*", "*aio=native*"}) {
    write_file(
        folder_ / "bin/qemu-img",
        fmt::format("#!/bin/sh\ncase \"$*\" in {}) exit 1;; esac\nPATH=${{PATH#*:}}\nexec qemu-img \"$@\"\n", fails));
    fs::permissions(folder_ / "bin/qemu-img", fs::perms{0755});
    const ProgramResult result =
        run_program(restore_command({"--format", "raw", "--output", folder_ / "copy.raw"}),
                    {.environment = {{"PATH", (folder_ / "bin").string() + ":" + std::getenv("PATH")}}});
    EXPECT_EQ(result.exit_code, 0) << fails << result.err;
    EXPECT_TRUE(read_file(folder_ / "copy.raw") == contents_[1]) << fails;
    fs::remove(folder_ / "copy.raw");
  }
}

// Whether a process has a file open that has no name.
bool holds_unnamed_file(pid_t pid) {
  std::error_code ended;
  for (const auto& entry : fs::directory_iterator(fmt::format("/proc/{}/fd", pid), ended)) {
    if (fs::read_symlink(entry.path(), ended).string().ends_with(" (deleted)")) {
      return true;
    }
  }
  return false;
}

TEST_F(RestoreTest, File_That_Appears_Meanwhile_Is_Not_Overwritten) {
  const fs::path output = folder_ / "late.raw";
  BackgroundProgram run(restore_command({"--format", "raw", "--output", output}));
  while (run.running() && !holds_unnamed_file(run.pid())) {
  }
  write_file(output, "precious");
  const ProgramResult result = run.wait();
  EXPECT_EQ(read_file(output), "precious") << result.out;
  EXPECT_EQ(result.exit_code, 1) << result.out;
  EXPECT_FALSE(fs::exists(output.string() + ".partial"));
}

TEST_F(RestoreTest, Export_Serves_The_Level_Until_Ctrl_C_And_Leaves_No_Socket) {
  const auto before = chain_files();
  for (const int level : {-1, 0}) {
    const std::string socket = folder_ / "nbd.sock";
    BackgroundProgram server(restore_command({"--export", socket, "-inc", std::to_string(level)}));
    wait_until("the export", [&] { return contains(server.out(), "is served"); });
    run_checked({"qemu-img", "convert", "-O", "raw", "nbd+unix:///?socket=" + socket, folder_ / "copy.raw"});
    EXPECT_TRUE(read_file(folder_ / "copy.raw") == contents_[static_cast<std::size_t>(level + 1)]);
    EXPECT_NE(run_program({"qemu-io", "-f", "raw", "-c", "write 0 512", "nbd+unix:///?socket=" + socket}).exit_code, 0)
        << "read-only";
    server.send_signal(SIGINT);
    EXPECT_EQ(server.wait().exit_code, 0);
    EXPECT_FALSE(fs::exists(socket));
  }
  EXPECT_TRUE(chain_files() == before);
}

TEST_F(RestoreTest, Export_Refuses_A_Socket_That_Is_There) {
  write_file(folder_ / "there", "precious");
  const ProgramResult result = restore({"--export", folder_ / "there"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(read_file(folder_ / "there"), "precious");
}

class DeviceTest : public RestoreTest {
 protected:
  void SetUp() override {
    RestoreTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) {
      return;
    }
    QMPBACKUP_REQUIRE_PROGRAM("losetup");
    write_file(folder_ / "device.img", std::string(65 * MiB, '\xee'));
    device_ = std::make_unique<LoopDevice>(folder_ / "device.img");
    QMPBACKUP_REQUIRE(device_->problem());
  }
  std::string on_device() const { return content_of(device_->path()); }
  static std::string content_of(const std::string& device) {
    std::ostringstream bytes;
    bytes << std::ifstream(device, std::ios::binary).rdbuf();
    return bytes.str();
  }

  std::unique_ptr<LoopDevice> device_;
};

TEST_F(DeviceTest, Block_Device_Is_Filled_With_Force_Alone_And_Boots) {
  const std::string old = on_device();
  const ProgramResult refused = restore({"--output", device_->path()});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_TRUE(contains(refused.err, "--force")) << refused.err;
  EXPECT_TRUE(on_device() == old);
  const ProgramResult filled = restore({"--output", device_->path(), "--force"});
  ASSERT_EQ(filled.exit_code, 0) << filled.err;
  const std::string now = on_device();
  EXPECT_TRUE(now.substr(0, 64 * MiB) == contents_[1]);
  EXPECT_TRUE(now.substr(64 * MiB) == old.substr(64 * MiB)) << "beyond the disk";
  EXPECT_EQ(boot(filled.out), exit_code_of(second_value)) << filled.out;
}

TEST_F(DeviceTest, Block_Device_Keeps_Its_Content_When_The_Chain_Is_Damaged) {
  const std::string full = backups() / "disk0.full.qcow2";
  std::string bytes = read_file(full);
  const auto frame = bytes.find("\x28\xb5\x2f\xfd");  // zstd's magic number: compressed data
  ASSERT_NE(frame, std::string::npos);
  bytes.replace(frame, 4, "gone");
  write_file(full, bytes);
  const std::string old = on_device();
  for (const bool checksums : {true, false}) {
    const ProgramResult result = restore(Arguments{"--output", device_->path(), "--force"} +
                                         (checksums ? Arguments{} : Arguments{"--no-checksum"}));
    EXPECT_EQ(result.exit_code, 1) << result.out;
    EXPECT_TRUE(contains(result.err, checksums ? "SHA-256" : "qemu-img convert failed on " + full)) << result.err;
    EXPECT_TRUE(on_device() == old) << "written before the data was read";
  }
}

TEST_F(DeviceTest, Ended_Copy_Onto_A_Block_Device_Says_That_The_Old_Content_Is_Gone) {
  fs::create_directory(folder_ / "bin");
  write_file(folder_ / "bin/qemu-img",
             "#!/bin/sh\ncase $1 in convert) exit 1;; esac\nPATH=${PATH#*:}\nexec qemu-img \"$@\"\n");
  fs::permissions(folder_ / "bin/qemu-img", fs::perms{0755});
  const ProgramResult result =
      run_program(restore_command({"--output", device_->path(), "--force"}),
                  {.environment = {{"PATH", (folder_ / "bin").string() + ":" + std::getenv("PATH")}}});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_TRUE(contains(result.err, "what it held before is gone")) << result.err;
}

TEST_F(DeviceTest, Block_Device_In_Use_Or_Too_Small_Is_Refused_Untouched) {
  const std::string old = on_device();
  {
    const UniqueFd claim(::open(device_->path().c_str(), O_RDWR | O_EXCL | O_CLOEXEC));  // as a mount does
    ASSERT_TRUE(claim);
    const ProgramResult result = restore({"--output", device_->path(), "--force"});
    EXPECT_EQ(result.exit_code, 1) << result.out;
    EXPECT_TRUE(contains(result.err, device_->path())) << result.err;
  }
  EXPECT_TRUE(on_device() == old);
  write_file(folder_ / "small.img", std::string(64 * MiB - 512, '\xee'));
  const LoopDevice small(folder_ / "small.img");
  const ProgramResult result = restore({"--output", small.path(), "--force"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_TRUE(contains(result.err, "bytes")) << result.err;
  EXPECT_TRUE(content_of(small.path()) == std::string(64 * MiB - 512, '\xee'));
}

class InfoTest : public OneDiskTest {};

TEST_F(InfoTest, Shows_Disks_Bitmaps_And_Jobs_And_Marks_What_Is_Foreign) {
  chain().take(-1);
  vm().write("disk0", 0, 64 * KiB, 0x22);
  const std::string node = vm().node_of("disk0");
  vm().control().execute("block-dirty-bitmap-add", {{"node", node}, {"name", "theirs"}});
  const json idle = summary_of(run_program(tool("info", "-socket", vm().socket(), "--json")));
  EXPECT_EQ(idle.at("vm"), "web1");
  EXPECT_EQ(idle.at("jobs"), json::array());
  ASSERT_EQ(idle.at("disks").size(), 1U);
  const json& disk = idle.at("disks")[0];
  EXPECT_EQ(disk.at("device"), "disk0");
  EXPECT_EQ(disk.at("format"), "qcow2");
  EXPECT_EQ(disk.at("virtual_size"), disk_size);
  EXPECT_EQ(disk.at("outlook"), "an incremental is possible: next level inc0");
  std::map<std::string, json> bitmaps;
  for (const json& bitmap : disk.at("bitmaps")) {
    bitmaps[bitmap.at("name").get<std::string>()] = bitmap;
  }
  ASSERT_TRUE(bitmaps.contains(chain().bitmap(-1))) << idle.dump(2);
  const json& ours = bitmaps[chain().bitmap(-1)];
  EXPECT_EQ(ours.at("ours"), true);
  EXPECT_EQ(ours.at("next_level"), 0);
  EXPECT_GE(ours.at("bytes_dirty"), 64 * KiB);
  ASSERT_TRUE(bitmaps.contains("theirs"));
  EXPECT_EQ(bitmaps["theirs"].at("ours"), false);
  EXPECT_EQ(bitmaps["theirs"].at("persistent"), false);

  start_foreign_job(node, disk_size);
  const json busy = summary_of(run_program(tool("info", "-socket", vm().socket(), "--json")));
  ASSERT_EQ(busy.at("jobs").size(), 1U) << busy.dump(2);
  EXPECT_EQ(busy.at("jobs")[0].at("id"), "foreign");
  EXPECT_EQ(busy.at("jobs")[0].at("ours"), false);
  EXPECT_TRUE(contains(busy.at("disks")[0].at("outlook").get<std::string>(), "foreign")) << busy.dump(2);
  const ProgramResult text = run_program(tool("info", "-socket", vm().socket()));
  EXPECT_EQ(text.exit_code, 0);
  for (const char* part : {"job foreign (foreign): backup, running", "foreign bitmap theirs", ", since full: "}) {
    EXPECT_TRUE(contains(text.out, part)) << part << "\n" << text.out;
  }
}

}  // namespace

}  // namespace qmpbackup::test
