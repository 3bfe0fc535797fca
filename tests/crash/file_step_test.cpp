// The tool dies before or after each of its steps on files, or the step fails: fsync, rename, unlink, mkdir, the
// creation of a file.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <iostream>

#include "qmpbackup/chain_files.hpp"
#include "qmpbackup/manifest.hpp"

#include "crash/fail_each.hpp"
#include "crash/kinds.hpp"
#include "crash/scene.hpp"
#include "support/images.hpp"
#include "support/requirements.hpp"

namespace qmpbackup::test {

namespace {

namespace fs = std::filesystem;

class File_Step : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override { QMPBACKUP_REQUIRE_QEMU(); }
};

// Of runs whose level's name nothing has before: a new full has the old one's, which moves into the archive.
class Free_Name : public File_Step {};

// Every kind of run takes more steps than that before its level is verified.
constexpr std::uint64_t kFirstOfCommit = 14;

ProgramResult backup_with_harm(Scene& scene, Kind kind, std::uint64_t step, const char* when, bool like_nfs = false) {
  std::map<std::string, std::string> environment{{"LD_PRELOAD", QMPBACKUP_KILL_SHIM},
                                                 {"QMPBACKUP_KILL_STEP", std::to_string(step)},
                                                 {"QMPBACKUP_KILL_WHEN", when}};
  if (like_nfs) {
    environment["QMPBACKUP_KILL_SHIM_LIKE_NFS"] = "1";
  }
  scene.set_environment(environment);
  ProgramResult result = scene.backup(arguments_of(kind));
  scene.set_environment({});
  return result;
}

bool is_verified(const Scene& scene) {
  const auto manifest = scene.manifest();
  return manifest.contains("pending") && manifest["pending"].contains("verified");
}

// Runs until a run is killed when its level is verified and nothing of the commit is done; returns that step.
std::uint64_t kill_at_the_commit(Scene& scene, Kind kind, std::uint64_t first_step = kFirstOfCommit) {
  for (std::uint64_t step = first_step;; ++step) {
    prepare(scene, kind);
    EXPECT_EQ(backup_with_harm(scene, kind, step, "before").signal, SIGKILL) << "there is a commit";
    Scene::count_fault();
    if (is_verified(scene) || testing::Test::HasFailure()) {
      std::cout << name_of(kind) << ": the commit begins before file step " << step << "\n";
      return step;
    }
    EXPECT_EQ(scene.recover_and_check(1), Violations{});
  }
}

}  // namespace

TEST_P(File_Step, Killed_Around_It_The_Tool_Loses_Nothing) {
  const std::uint64_t step = all_rounds() ? 1 : GetParam() == Kind::NewFullOverBrokenChain ? 19 : 11;
  Scene scene(crash_seed());
  int kills = 0;
  for (std::uint64_t k = crash_seed() % step;; k += step) {
    ASSERT_NO_FATAL_FAILURE(prepare(scene, GetParam()));
    const std::size_t chains = chain_bases(scene.base()).size();
    const char* when = k % 2 == 0 ? "before" : "after";
    const ProgramResult result = backup_with_harm(scene, GetParam(), k / 2, when);
    if (result.signal != SIGKILL) {
      EXPECT_EQ(result.exit_code, 0) << result.err;
      break;
    }
    Scene::count_fault();
    ++kills;
    const std::string where = fmt::format("{} file step {}", when, k / 2);
    EXPECT_EQ(scene.recover_and_check(1), Violations{}) << where << scene.last_words();
    EXPECT_LE(chain_bases(scene.base()).size(), chains + (GetParam() == Kind::NewFullOverBrokenChain ? 1 : 0)) << where;
  }
  EXPECT_GT(kills, 2);
  std::cout << name_of(GetParam()) << ": " << kills << " kills\n";
}

// There a level gets its final name in two steps.
TEST_P(File_Step, Of_The_Commit_Killed_Around_It_Without_Noreplace_Loses_Nothing) {
  Scene scene(crash_seed());
  int kills = 0;
  const std::uint64_t stride = all_rounds() ? 1 : GetParam() == Kind::NewFullOverBrokenChain ? 11 : 5;
  for (std::uint64_t step = kFirstOfCommit + crash_seed() % stride;; step += stride) {
    ASSERT_NO_FATAL_FAILURE(prepare(scene, GetParam()));
    const ProgramResult result = backup_with_harm(scene, GetParam(), step, "after", true);
    if (result.signal != SIGKILL) {
      EXPECT_EQ(result.exit_code, 0) << result.err;
      break;
    }
    Scene::count_fault();
    ++kills;
    EXPECT_EQ(scene.recover_and_check(1), Violations{}) << "after file step " << step << scene.last_words();
  }
  EXPECT_GT(kills, 1);
}

// The folder was copied, or the file system gives inodes anew: the content tells.
TEST_P(File_Step, Of_The_Commit_Killed_After_It_In_A_Folder_That_Was_Copied_Loses_Nothing) {
  Scene scene(crash_seed());
  int copied = 0;
  const std::uint64_t before_its_rename = GetParam() == Kind::NewFullOverBrokenChain ? 18 : 1;
  for (std::uint64_t step = kFirstOfCommit + before_its_rename; copied == 0; ++step) {
    ASSERT_NO_FATAL_FAILURE(prepare(scene, GetParam()));
    ASSERT_EQ(backup_with_harm(scene, GetParam(), step, "after").signal, SIGKILL);
    Scene::count_fault();
    if (is_verified(scene)) {
      const auto pending = scene.manifest()["pending"];
      const fs::path level = scene.folder() / pending["verified"]["file"].get<std::string>();
      if (!fs::exists(scene.folder() / pending["partial"].get<std::string>())) {
        fs::copy_file(level, scene.folder() / "copy");
        fs::rename(scene.folder() / "copy", level);
        ++copied;
      }
    }
    EXPECT_EQ(scene.recover_and_check(1), Violations{}) << "after file step " << step << scene.last_words();
    if (copied > 0) {
      EXPECT_EQ(scene.last_words().find("was taken back"), std::string::npos) << scene.last_words();
    }
  }
}

TEST_P(File_Step, That_Fails_Loses_Nothing) {
  Scene scene(crash_seed());
  fail_each(
      8,
      [&](std::uint64_t k) {
        prepare(scene, GetParam());
        return backup_with_harm(scene, GetParam(), k, "fail");
      },
      [&](const std::string& where) {
        EXPECT_EQ(scene.recover_and_check(1), Violations{}) << where << scene.last_words();
      });
}

// It fails though it has happened, as where the folder cannot be synced after a rename, and then the undo is killed.
TEST(Failed_File_Step, Whose_Undo_Is_Killed_Keeps_A_Bitmap_For_The_Next_Level) {
  QMPBACKUP_REQUIRE_QEMU();
  Scene scene(crash_seed());
  const std::uint64_t stride = all_rounds() ? 1 : 4;
  int failures = 0;
  for (std::uint64_t k = kFirstOfCommit + crash_seed() % stride;; k += stride) {
    ASSERT_NO_FATAL_FAILURE(prepare(scene, Kind::Incremental));
    scene.set_environment({{"LD_PRELOAD", QMPBACKUP_KILL_SHIM},
                           {"QMPBACKUP_KILL_STEP", std::to_string(k)},
                           {"QMPBACKUP_KILL_WHEN", "fail"}});
    const ProgramResult result = scene.backup({"-inc", "auto"}, [&](const Point& point) {
      return point.command == "block-dirty-bitmap-remove" && point.moment == Moment::Answered ? scene.kill_tool(point)
                                                                                              : Verdict::Forward;
    });
    scene.set_environment({});
    if (result.err.find("kill_shim") == std::string::npos) {
      break;
    }
    ++failures;
    EXPECT_EQ(scene.recover_and_check(1), Violations{}) << k << result.err << scene.last_words();
    EXPECT_EQ(chain_bases(scene.base()).size(), 1U) << k << ": a new full" << result.err << scene.last_words();
  }
  EXPECT_GT(failures, 2);
}

// What cannot be looked at is not gone, and no reason to begin a new chain.
TEST_P(File_Step, Look_That_Fails_Loses_Nothing) {
  Scene scene(crash_seed());
  std::size_t chains = 0;
  fail_each(
      12,
      [&](std::uint64_t k) {
        prepare(scene, GetParam());
        chains = chain_bases(scene.base()).size();
        scene.set_environment(failing_look(scene.folder(), k));
        ProgramResult result = scene.backup(arguments_of(GetParam()));
        scene.set_environment({});
        return result;
      },
      [&](const std::string& where) {
        EXPECT_EQ(scene.recover_and_check(1), Violations{}) << where << scene.last_words();
        EXPECT_LE(chain_bases(scene.base()).size(), chains + (GetParam() == Kind::NewFullOverBrokenChain ? 1 : 0))
            << where;
      });
}

// The commit of a killed run is repeated by the next one, which may fail too.
TEST_P(File_Step, That_Fails_While_A_Killed_Commit_Is_Repeated_Loses_Nothing) {
  Scene scene(crash_seed());
  std::uint64_t commit = kFirstOfCommit;
  const std::uint64_t stride = all_rounds() ? 1 : 3;
  for (std::uint64_t k = crash_seed() % stride; k < (all_rounds() ? 30 : 8); k += stride) {
    commit = kill_at_the_commit(scene, GetParam(), commit);
    ASSERT_TRUE(is_verified(scene));
    const ProgramResult result = backup_with_harm(scene, GetParam(), k, "fail");
    Scene::count_fault();
    const std::string where = fmt::format("file step {} fails: {}", k, result.err);
    EXPECT_TRUE(result.exit_code == 0 || result.exit_code == 1) << where;
    EXPECT_EQ(scene.recover_and_check(1), Violations{}) << where << scene.last_words();
  }
}

TEST_P(File_Step, Verified_Level_That_Vanished_Is_Not_Taken_For_Another_File) {
  Scene scene(crash_seed());
  kill_at_the_commit(scene, GetParam());
  ASSERT_TRUE(is_verified(scene));
  fs::remove(scene.folder() / scene.manifest()["pending"]["partial"].get<std::string>());
  EXPECT_EQ(scene.recover_and_check(1), Violations{}) << scene.last_words();
}

TEST_P(File_Step, Verified_Level_That_Was_Cut_Gets_No_Final_Name) {
  Scene scene(crash_seed());
  kill_at_the_commit(scene, GetParam());
  ASSERT_TRUE(is_verified(scene));
  const fs::path partial = scene.folder() / scene.manifest()["pending"]["partial"].get<std::string>();
  fs::resize_file(partial, fs::file_size(partial) - 64 * KiB);
  const std::size_t chains = chain_bases(scene.base()).size();
  EXPECT_EQ(scene.recover_and_check(1), Violations{}) << scene.last_words();
  EXPECT_NE(scene.last_words().find("was taken back"), std::string::npos) << scene.last_words();
  EXPECT_LE(chain_bases(scene.base()).size(), chains + (GetParam() == Kind::NewFullOverBrokenChain ? 1 : 0));
}

// Nothing was written since the old full, and by chance its file is the same byte for byte.
TEST(Old_Full, With_The_Content_Of_A_New_One_That_Vanished_Is_Not_Taken_For_It) {
  QMPBACKUP_REQUIRE_QEMU();
  Scene scene(crash_seed());
  kill_at_the_commit(scene, Kind::NewFullOverBrokenChain);
  Manifest manifest = parse_manifest(scene.manifest().dump());
  ASSERT_TRUE(manifest.pending && manifest.pending->verified);
  fs::remove(scene.folder() / manifest.pending->partial);
  manifest.pending->verified->sha256 = manifest.levels.front().sha256;
  manifest.pending->verified->file_size = manifest.levels.front().file_size;
  write_file(ChainFiles(scene.base()).manifest_path(), format_manifest(manifest));
  EXPECT_EQ(scene.recover_and_check(1), Violations{}) << scene.last_words();
}

TEST_P(Free_Name, That_A_File_Takes_When_The_Level_Is_Verified_Stays_That_File) {
  Scene scene(crash_seed());
  kill_at_the_commit(scene, GetParam());
  ASSERT_TRUE(is_verified(scene));
  const fs::path final_file = scene.folder() / scene.manifest()["pending"]["verified"]["file"].get<std::string>();
  write_file(final_file, "precious");
  const ProgramResult result = scene.backup({"-inc", "auto"});
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_NE(result.err.find(final_file.filename().string()), std::string::npos) << result.err;
  EXPECT_EQ(read_file(final_file), "precious");
  fs::remove(final_file);
  EXPECT_EQ(scene.recover_and_check(1), Violations{}) << scene.last_words();
}

INSTANTIATE_TEST_SUITE_P(Each, Free_Name, testing::Values(Kind::Full, Kind::Incremental), kind_name);
INSTANTIATE_TEST_SUITE_P(Each, File_Step, testing::Values(Kind::Full, Kind::Incremental, Kind::NewFullOverBrokenChain),
                         kind_name);

}  // namespace qmpbackup::test
