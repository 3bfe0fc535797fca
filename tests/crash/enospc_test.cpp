// The target is too small, or the source cannot be read: the run fails, and the chain, the bitmap and the guest are as
// before.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "crash/kinds.hpp"
#include "crash/scene.hpp"
#include "support/images.hpp"
#include "support/requirements.hpp"

namespace qmpbackup::test {

namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kRoom = 64 * MiB;

std::uint64_t used_bytes(const Scene& scene) {
  const auto space = fs::space(scene.folder());
  return space.capacity - space.free;
}

// What no compression makes smaller.
void write_noise(Scene& scene, std::uint64_t offset, std::uint64_t length) {
  std::string noise(length, '\0');
  for (char& byte : noise) {
    byte = static_cast<char>(scene.below(256));
  }
  const fs::path file = scene.everything() / "noise";
  write_file(file, noise);
  scene.vm().qemu_io(Scene::disk, fmt::format("write -s {} {} {}", file.string(), offset, length));
}

class Full_Target : public testing::TestWithParam<std::tuple<Kind, std::string>> {
 protected:
  void SetUp() override { QMPBACKUP_REQUIRE_QEMU(); }
};

std::string case_name(const testing::TestParamInfo<std::tuple<Kind, std::string>>& info) {
  return fmt::format("{}_{}", name_of(std::get<Kind>(info.param)), std::get<std::string>(info.param));
}

}  // namespace

// From no room at all to enough, in small steps.
TEST_P(Full_Target, Fails_Without_A_Trace_And_The_Guest_Runs_On) {
  const auto& [kind, compression] = GetParam();
  Scene scene(crash_seed(), {.tmpfs_bytes = kRoom, .start_paused = false});
  QMPBACKUP_REQUIRE_TMPFS(*scene.tmpfs());
  const std::uint64_t step = (all_rounds() ? 1 : 7) * 256 * KiB;
  int failures = 0;
  for (std::uint64_t room = 4 * KiB + crash_seed() % step; room < 8 * MiB; room += step) {
    ASSERT_NO_FATAL_FAILURE(prepare(scene, kind));
    write_noise(scene, 0, 2 * MiB);
    const auto levels = scene.levels();
    const std::size_t chains = chain_bases(scene.base()).size();
    const auto bitmaps = scene.vm().our_bitmaps(Scene::disk);
    auto arguments = arguments_of(kind);
    arguments.insert(arguments.end(), {"--compress", compression, "--no-space-check"});
    scene.tmpfs()->resize(used_bytes(scene) + room);
    Scene::count_fault();
    const ProgramResult result = scene.backup(arguments);
    EXPECT_EQ(scene.vm().status(), "running");
    scene.tmpfs()->resize(kRoom);
    if (result.exit_code == 0) {
      EXPECT_EQ(scene.check_settled(), Violations{}) << room;
      continue;
    }
    ++failures;
    EXPECT_EQ(result.exit_code, 1) << room << result.err;
    EXPECT_EQ(scene.levels(), levels) << room;
    EXPECT_EQ(scene.vm().our_bitmaps(Scene::disk), bitmaps) << room;
    EXPECT_EQ(scene.recover_and_check(), Violations{}) << room << scene.last_words();
    EXPECT_EQ(chain_bases(scene.base()).size(), chains) << room << ": a new full" << scene.last_words();
  }
  EXPECT_GT(failures, 0);
}

INSTANTIATE_TEST_SUITE_P(Each, Full_Target,
                         testing::Combine(testing::Values(Kind::Full, Kind::Incremental),
                                          testing::Values("none", "zstd")),
                         case_name);

// A dead run's job has filled the folder, and QEMU has ended since: nothing can be written before the partial file
// goes.
TEST(Full_Folder, Is_Cleared_By_The_Next_Run) {
  QMPBACKUP_REQUIRE_QEMU();
  Scene scene(crash_seed(), {.tmpfs_bytes = kRoom});
  QMPBACKUP_REQUIRE_TMPFS(*scene.tmpfs());
  ASSERT_NO_FATAL_FAILURE(prepare(scene, Kind::Incremental));
  write_noise(scene, 0, 3 * MiB);
  bool has_target = false;
  const ProgramResult killed =
      scene.backup({"-inc", "auto", "--compress", "none", "--no-space-check"}, [&](const Point& point) {
        has_target = has_target || point.command == "add-fd";
        if (!has_target || point.command != "transaction") {
          return Verdict::Forward;
        }
        if (point.moment == Moment::BeforeSending) {
          scene.tmpfs()->resize(used_bytes(scene) + MiB);
        }
        return point.moment == Moment::Answered ? scene.kill_tool(point) : Verdict::Forward;
      });
  ASSERT_EQ(killed.signal, SIGKILL);
  const fs::path partial = scene.folder() / scene.manifest()["pending"]["partial"].get<std::string>();
  ASSERT_TRUE(fs::exists(partial));
  for (std::ofstream filler(scene.folder() / "filler"); filler.put('x').flush();) {
  }
  scene.vm().restart();
  const ProgramResult next = scene.backup({"-inc", "auto"});
  EXPECT_FALSE(fs::exists(partial)) << next.err;
  EXPECT_FALSE(scene.manifest().contains("pending")) << next.err;
  fs::remove(scene.folder() / "filler");
  scene.tmpfs()->resize(kRoom);
  EXPECT_EQ(scene.recover_and_check(), Violations{}) << scene.last_words();
  EXPECT_EQ(chain_bases(scene.base()).size(), 1U) << scene.last_words();
}

TEST(Space_Check, Refuses_Before_Anything_Is_Changed) {
  QMPBACKUP_REQUIRE_QEMU();
  Scene scene(crash_seed(), {.tmpfs_bytes = kRoom});
  QMPBACKUP_REQUIRE_TMPFS(*scene.tmpfs());
  for (const Kind kind : {Kind::Full, Kind::Incremental}) {
    ASSERT_NO_FATAL_FAILURE(prepare(scene, kind));
    write_noise(scene, 0, 3 * MiB);
    const auto before = files_in(scene.folder());
    const auto bitmaps = scene.vm().our_bitmaps(Scene::disk);
    scene.tmpfs()->resize(used_bytes(scene) + 2 * MiB);
    const ProgramResult result = scene.backup(arguments_of(kind));
    EXPECT_EQ(result.exit_code, 1) << result.err;
    EXPECT_NE(result.err.find("--no-space-check"), std::string::npos) << result.err;
    EXPECT_TRUE(files_in(scene.folder()) == before);
    EXPECT_EQ(scene.vm().our_bitmaps(Scene::disk), bitmaps);
    scene.tmpfs()->resize(kRoom);
    EXPECT_EQ(scene.recover_and_check(), Violations{});
  }
}

TEST(Source_Error, Fails_The_Run_And_The_Next_One_Is_Correct) {
  QMPBACKUP_REQUIRE_QEMU();
  QMPBACKUP_REQUIRE_PROGRAM("nbdkit");
  for (const Kind kind : {Kind::Full, Kind::Incremental}) {
    Scene scene(crash_seed(), {.style = DiskSpec::Style::Blockdev, .reads_can_fail = true});
    ASSERT_NO_FATAL_FAILURE(prepare(scene, kind));
    scene.vm().write(Scene::disk, 0, 4 * MiB, 7);
    const auto levels = scene.levels();
    scene.fail_reads(true);
    const ProgramResult result = scene.backup(arguments_of(kind));
    scene.fail_reads(false);
    Scene::count_fault();
    EXPECT_EQ(result.exit_code, 1) << result.err;
    EXPECT_EQ(scene.levels(), levels);
    EXPECT_EQ(scene.recover_and_check(), Violations{}) << scene.last_words();
    EXPECT_EQ(chain_bases(scene.base()).size(), 1U) << scene.last_words();
  }
}

}  // namespace qmpbackup::test
