// Backups of a guest that really runs and writes all the time: each level must be the disk at one moment.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <random>

#include "integration/scenario.hpp"

// The boot sector of stamping_guest.S.
extern "C" const char stamping_guest[512];

namespace qmpbackup::test {
namespace {

constexpr std::uint64_t kSector = 512;
constexpr std::uint32_t kAreas = 8;
constexpr std::uint32_t kSlots = 64;  // each in a granule of its own, so that a lost write stays lost for a while
constexpr std::uint64_t kStampedBytes = 16 * kSector;

std::uint64_t offset_of(std::uint32_t area, std::uint32_t slot) {
  return (2048 + area * 8192 + slot * 128) * kSector;
}

// The write that a slot holds, 0 for none.
std::uint32_t write_in(const std::string& disk, std::uint32_t area, std::uint32_t slot) {
  std::array<std::uint32_t, kStampedBytes / sizeof(std::uint32_t)> values{};
  std::memcpy(values.data(), disk.data() + offset_of(area, slot), kStampedBytes);
  EXPECT_TRUE(std::ranges::all_of(values, [&](std::uint32_t value) { return value == values[0]; }))
      << "half a write in area " << area << ", slot " << slot;
  return values[0];
}

// Leaves no room on the file system of `file`.
void fill(const fs::path& file) {
  std::ofstream out(file, std::ios::binary);
  const std::string block(64 * KiB, 'x');
  while (out.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) {
  }
}

// The newest write that `disk` holds; fails unless every other one is what the guest wrote there last before it.
std::uint32_t newest_write(const std::string& disk) {
  std::uint32_t newest = 0;
  for (std::uint32_t area = 0; area < kAreas; ++area) {
    for (std::uint32_t slot = 0; slot < kSlots; ++slot) {
      newest = std::max(newest, write_in(disk, area, slot));
    }
  }
  for (std::uint32_t area = 0; area < kAreas; ++area) {
    for (std::uint32_t slot = 0; slot < kSlots; ++slot) {
      std::uint32_t expected = 0;
      for (std::uint32_t stamp = newest / kAreas, i = 0; i <= kSlots && stamp >= 1; ++i, --stamp) {
        if (stamp % kSlots == slot && stamp * kAreas + area <= newest) {
          expected = stamp * kAreas + area;
          break;
        }
      }
      EXPECT_EQ(write_in(disk, area, slot), expected)
          << "area " << area << ", slot " << slot << ", newest write " << newest;
    }
  }
  return newest;
}

class GuestTest : public IntegrationTest {
 protected:
  void boot(const std::string& format, bool iothread) {
    auto disk = new_disk("disk0", 64 * MiB, "raw");
    write_file(disk.image, std::string(stamping_guest, sizeof(stamping_guest)));
    fs::resize_file(disk.image, 64 * MiB);
    if (format == "qcow2") {
      const auto image = folder_ / "disk0.qcow2";
      run_checked({"qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk.image, image});
      disk.image = image;
    }
    disk.format = format;
    disk.iothread = iothread;
    // TCG: firmware is slow in a virtual machine inside a virtual machine.
    vm_ = std::make_unique<QemuVm>(folder_, std::vector{disk},
                                   VmOptions{.machine = "pc", .accelerators = "tcg", .start_paused = false});
    vm_->start();
    chain_ = std::make_unique<TestChain>(*vm_, "disk0", base());
  }

  std::uint64_t writes() {
    return vm_->control().execute("query-blockstats").at(0).at("stats").at("wr_operations").get<std::uint64_t>();
  }
  void wait_for_writes(std::uint64_t more) {
    const auto enough = writes() + more;
    wait_until(
        "the guest's writes", [&] { return writes() >= enough; }, seconds(120));
  }

  std::unique_ptr<QemuVm> vm_;
  std::unique_ptr<TestChain> chain_;
};

class RunningGuestTest : public GuestTest, public testing::WithParamInterface<std::tuple<std::string, bool>> {
 protected:
  void SetUp() override {
    IntegrationTest::SetUp();
    if (!IsSkipped() && !HasFatalFailure()) {
      boot(std::get<0>(GetParam()), std::get<1>(GetParam()));
    }
  }
};

TEST_P(RunningGuestTest, Each_Level_Is_The_Disk_At_One_Moment) {
  constexpr int kLast = 5;
  const auto seed = std::random_device()();
  std::mt19937 random(seed);
  SCOPED_TRACE(fmt::format("seed {}", seed));
  wait_for_writes(100);
  for (int level = -1; level <= kLast; ++level) {
    const Arguments slowly = level % 2 != 0 ? Arguments{"--speed-limit", "32M"} : Arguments{};
    const auto writes_before = writes();
    const auto run = chain_->run(Arguments{"-inc", std::to_string(level)} + slowly);
    ASSERT_EQ(run.exit_code, 0) << run.err;
    EXPECT_EQ(vm_->status(), "running");
    if (level == -1) {
      EXPECT_GT(writes(), writes_before) << "the guest did not write during the full";
    }
    wait_for_writes(1 + random() % 64);
  }
  std::uint32_t previous = 0;
  for (int level = -1; level <= kLast; ++level) {
    SCOPED_TRACE(level_name(level));
    const auto restored = folder_ / "restored.raw";
    convert_to_raw(chain_->file(level), "qcow2", restored);
    const auto newest = newest_write(read_file(restored));
    EXPECT_GT(newest, previous);
    previous = newest;
    fs::remove(restored);
  }
}

// The tool is killed, the target is full for a moment, and the guest stands still on the write that QEMU could not copy
// aside before it. The next run finishes the level, or waits for its job: the guest must run on in both cases.
TEST_F(GuestTest, Guest_That_Stood_Still_After_The_Tool_Was_Killed_Runs_On_With_The_Next_Run) {
  TmpfsFolder target(100 * MiB);
  QMPBACKUP_REQUIRE_TMPFS(target);
  boot("qcow2", false);
  vm_->qemu_io("disk0", "write -P 5 40M 20M");
  chain_ = std::make_unique<TestChain>(*vm_, "disk0", target / "disk0");
  wait_for_writes(100);
  for (const char* then : {"the job ends before the next run", "the job still works", "the manifest is lost"}) {
    SCOPED_TRACE(then);
    BackgroundProgram run(
        chain_->command({"-inc", "auto", "--speed-limit", "64K", "--compress", "none", "--buffered"}));
    wait_for_backup_job(*vm_, run);
    run.send_signal(SIGKILL);
    run.wait();
    fill(target / "filler");
    wait_until(
        "the guest stands still", [&] { return vm_->status() == "io-error"; }, seconds(60));
    fs::remove(target / "filler");
    const auto job = backup_job(*vm_);
    ASSERT_FALSE(job.empty());
    if (then == std::string("the manifest is lost")) {
      fs::remove(chain_->oracle().manifest());
    } else if (then == std::string("the job ends before the next run")) {
      vm_->control().execute("block-job-set-speed", {{"device", job}, {"speed", 0}});
      wait_until(
          "the job ends", [&] { return vm_->control().execute("query-jobs").at(0).at("status") == "concluded"; },
          seconds(60));
    }
    const auto next = chain_->run({"-inc", "auto"});
    EXPECT_EQ(next.exit_code, 0) << next.err;
    EXPECT_EQ(vm_->status(), "running") << next.err;
    vm_->control().execute("block-dirty-bitmap-clear",
                           {{"node", vm_->node_of("disk0")}, {"name", vm_->our_bitmaps("disk0").at(0)}});
  }
}

std::string name_of_disk(const testing::TestParamInfo<std::tuple<std::string, bool>>& disk) {
  return std::get<0>(disk.param) + (std::get<1>(disk.param) ? "_iothread" : "_main_loop");
}

INSTANTIATE_TEST_SUITE_P(Disks, RunningGuestTest, testing::Combine(testing::Values("qcow2", "raw"), testing::Bool()),
                         name_of_disk);

}  // namespace
}  // namespace qmpbackup::test
