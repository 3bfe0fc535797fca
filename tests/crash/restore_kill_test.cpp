// A restore that is killed leaves its output whole or not at all, and the same command works again.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <set>

#include "crash/scene.hpp"
#include "support/images.hpp"
#include "support/requirements.hpp"

namespace qmpbackup::test {

namespace fs = std::filesystem;

namespace {

// The file system can have files without a name, or it cannot.
enum class FileSystem { Local, LikeNfs };

using Case = std::tuple<FileSystem, std::string>;

std::string case_name(const testing::TestParamInfo<Case>& info) {
  const auto& [file_system, format] = info.param;
  return fmt::format("{}_{}", file_system == FileSystem::Local ? "Local" : "LikeNfs", format);
}

class Restore_Kill : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    QMPBACKUP_REQUIRE_QEMU();
    scene_ = std::make_unique<Scene>(crash_seed());
    for (const char* level : {"-1", "0"}) {
      ASSERT_EQ(scene_->backup({"-inc", level}).exit_code, 0) << scene_->last_words();
      scene_->change_disk(3);
    }
    content_ = restored_content(scene_->base().string() + ".inc0.qcow2");
    fs::create_directory(folder());
  }

  fs::path folder() const { return scene_->everything() / "restored"; }
  fs::path output() const { return folder() / ("disk." + format()); }
  static std::string format() { return std::get<std::string>(GetParam()); }
  static bool is_like_nfs() { return std::get<FileSystem>(GetParam()) == FileSystem::LikeNfs; }

  std::vector<std::string> command() const {
    return tool("restore", "-backupFile", scene_->base(), "--format", format(), "--output", output());
  }
  static RunOptions options(std::map<std::string, std::string> environment = {}) {
    environment["LD_PRELOAD"] = QMPBACKUP_KILL_SHIM;
    if (is_like_nfs()) {
      environment["QMPBACKUP_KILL_SHIM_LIKE_NFS"] = "1";
    }
    return {.environment = environment};
  }

  std::set<std::string> names() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder())) {
      names.insert(entry.path().filename().string());
    }
    return names;
  }

  // After a kill: the output is whole or not there, and nothing else is, but where every file has a name.
  void check_and_restore_again(const std::string& where) {
    const fs::path partial = output().string() + ".partial";
    const bool complete = fs::exists(output());
    EXPECT_EQ(names().size(), (complete ? 1U : 0U) + (is_like_nfs() && fs::exists(partial) ? 1U : 0U)) << where;
    if (complete) {
      EXPECT_TRUE(restored_content(output()) == content_) << where;
      fs::remove(output());
    }
    if (fs::exists(partial)) {
      const ProgramResult refused = run_program(command(), options());
      EXPECT_EQ(refused.exit_code, 1) << where;
      EXPECT_NE(refused.err.find(partial.string() + " is in the way"), std::string::npos) << where << refused.err;
      fs::remove(partial);
    }
    const ProgramResult again = run_program(command(), options());
    EXPECT_EQ(again.exit_code, 0) << where << again.err;
    EXPECT_TRUE(restored_content(output()) == content_) << where;
    fs::remove(output());
    EXPECT_TRUE(names().empty()) << where;
  }

  std::unique_ptr<Scene> scene_;
  std::string content_;
};

}  // namespace

TEST_P(Restore_Kill, Around_Each_File_Step_Leaves_All_Or_Nothing) {
  int kills = 0;
  for (int k = 0;; ++k) {
    const char* when = k % 2 == 0 ? "before" : "after";
    const ProgramResult result = run_program(
        command(), options({{"QMPBACKUP_KILL_STEP", std::to_string(k / 2)}, {"QMPBACKUP_KILL_WHEN", when}}));
    if (result.signal != SIGKILL) {
      EXPECT_EQ(result.exit_code, 0) << result.err;
      break;
    }
    Scene::count_fault();
    ++kills;
    ASSERT_NO_FATAL_FAILURE(check_and_restore_again(fmt::format("{} file step {}", when, k / 2)));
  }
  EXPECT_GE(kills, 8);
}

TEST_P(Restore_Kill, At_Any_Time_Leaves_All_Or_Nothing) {
  for (int round = 0; round < (all_rounds() ? 40 : 4); ++round) {
    BackgroundProgram program(command(), options());
    const int signal = round % 2 == 0 ? SIGKILL : SIGTERM;
    if (!program.finished_within(std::chrono::milliseconds(5 + scene_->below(150)))) {
      Scene::count_fault();
      program.send_signal(signal);
    }
    const ProgramResult result = program.wait();
    if (signal == SIGTERM && result.exit_code == 128 + SIGTERM) {
      EXPECT_TRUE(names().empty()) << result.err;
    }
    ASSERT_NO_FATAL_FAILURE(check_and_restore_again(fmt::format("round {}", round)));
  }
}

INSTANTIATE_TEST_SUITE_P(Each, Restore_Kill,
                         testing::Values(Case{FileSystem::Local, "raw"}, Case{FileSystem::Local, "qcow2"},
                                         Case{FileSystem::LikeNfs, "qcow2"}),
                         case_name);

}  // namespace qmpbackup::test
