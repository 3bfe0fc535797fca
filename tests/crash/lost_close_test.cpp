// The target's storage fails after the job has concluded: QEMU's job says success, and what its caches still hold never
// reaches the file.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "crash/kinds.hpp"
#include "crash/scene.hpp"
#include "support/requirements.hpp"

namespace qmpbackup::test {

namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kRoom = 64 * MiB;

class Lost_Close : public testing::TestWithParam<std::tuple<Kind, std::string>> {
 protected:
  void SetUp() override { QMPBACKUP_REQUIRE_QEMU(); }
};

std::string case_name(const testing::TestParamInfo<std::tuple<Kind, std::string>>& info) {
  return fmt::format("{}_{}", name_of(std::get<Kind>(info.param)), std::get<std::string>(info.param));
}

// From the moment that `command` concerns the target on, no byte more fits in.
Scene::Meddling fill_before(Scene& scene, const std::string& command) {
  return [&scene, command](const Point& point) {
    if (point.moment == Moment::BeforeSending && point.command == command &&
        point.arguments.dump().find("-target") != std::string::npos) {
      Scene::count_fault();
      const auto space = fs::space(scene.folder());
      scene.tmpfs()->resize(space.capacity - space.free);
    }
    return Verdict::Forward;
  };
}

void expect_nothing_committed(Scene& scene, Kind kind, const std::string& compression, const std::string& command) {
  ASSERT_NO_FATAL_FAILURE(prepare(scene, kind));
  const auto levels = scene.levels();
  const auto bitmaps = scene.vm().our_bitmaps(Scene::disk);
  scene.change_disk(20);
  auto arguments = arguments_of(kind);
  arguments.insert(arguments.end(), {"--compress", compression});
  const std::size_t chains = chain_bases(scene.base()).size();
  const int faults = Scene::total_faults();
  const ProgramResult result = scene.backup(arguments, fill_before(scene, command));
  ASSERT_GT(Scene::total_faults(), faults);
  scene.tmpfs()->resize(kRoom);
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_NE(result.err.find("space"), std::string::npos) << result.err;
  EXPECT_EQ(scene.levels(), levels);
  EXPECT_EQ(scene.vm().our_bitmaps(Scene::disk), bitmaps);
  EXPECT_EQ(scene.recover_and_check(), Violations{}) << scene.last_words();
  EXPECT_EQ(chain_bases(scene.base()).size(), chains + (kind == Kind::NewFullOverBrokenChain ? 1 : 0))
      << "a new full, though the bitmap should hold every change" << scene.last_words();
}

}  // namespace

TEST_P(Lost_Close, Fails_And_Commits_Nothing) {
  const auto& [kind, compression] = GetParam();
  Scene scene(crash_seed(), {.tmpfs_bytes = kRoom});
  QMPBACKUP_REQUIRE_TMPFS(*scene.tmpfs());
  expect_nothing_committed(scene, kind, compression, "blockdev-reopen");
}

// Without blockdev-reopen nobody is told: only reading the level back shows it.
TEST_P(Lost_Close, Is_Found_By_Reading_Back_On_A_Qemu_That_Cannot_Reopen) {
  const auto& [kind, compression] = GetParam();
  Scene scene(crash_seed(), {.tmpfs_bytes = kRoom});
  QMPBACKUP_REQUIRE_TMPFS(*scene.tmpfs());
  scene.hide_from_schema({"blockdev-reopen"});
  expect_nothing_committed(scene, kind, compression, "blockdev-del");
}

INSTANTIATE_TEST_SUITE_P(Each, Lost_Close,
                         testing::Combine(testing::Values(Kind::Full, Kind::Incremental, Kind::NewFullOverBrokenChain),
                                          testing::Values("none", "zstd")),
                         case_name);

}  // namespace qmpbackup::test
