// A merge that is killed anywhere leaves the old chain or the new one: what restores is what it was, and the chain goes
// on without another full.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/file.h>

#include <iostream>

#include "crash/fail_each.hpp"
#include "crash/scene.hpp"
#include "support/images.hpp"
#include "support/requirements.hpp"

namespace qmpbackup::test {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

class Merge : public testing::Test {
 protected:
  void SetUp() override { QMPBACKUP_REQUIRE_QEMU(); }

  // At least four levels that no merge has been over yet.
  void prepare(Scene& scene) {
    constexpr int kMany = 12;
    if (scene.levels().empty() || scene.levels().back() > kMany) {
      scene.new_chain();
      contents_.clear();
      take(scene, {});
    }
    while (scene.levels().size() < 4) {
      scene.change_disk(4);
      take(scene, {"-inc", "auto"});
    }
    learn(scene);
  }

  void take(Scene& scene, std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--compress", "none"});
    ASSERT_EQ(scene.backup(arguments).exit_code, 0) << scene.last_words();
  }

  // What each level holds now, by number.
  void learn(const Scene& scene) {
    for (const int level : scene.levels()) {
      contents_[level] = restored_content(file(scene, level));
    }
  }

  static fs::path file(const Scene& scene, int level) {
    return fmt::format("{}.{}.qcow2", scene.base().string(), level < 0 ? "full" : "inc" + std::to_string(level));
  }

  static ProgramResult on_chain(const Scene& scene, const std::string& command, std::vector<std::string> more,
                                const RunOptions& options = {}) {
    more.insert(more.begin(), {tool_binary(), command, "-backupFile", scene.base()});
    return run_program(more, options);
  }

  static ProgramResult merge(const Scene& scene, int through, std::vector<std::string> more = {},
                             const RunOptions& options = {}) {
    more.insert(more.begin(), {"-inc", std::to_string(through)});
    return on_chain(scene, "merge", more, options);
  }

  // Before anybody could recover, plain qemu-img restores the merged level and all later ones.
  Violations check_with_qemu_img(const Scene& scene, int through, int newest) {
    Violations violations;
    for (int level = through; level <= newest; ++level) {
      const bool merged_away = level == through && !fs::exists(file(scene, level));
      try {
        const std::string content = restored_content(file(scene, merged_away ? -1 : level));
        if (content != contents_.at(level)) {
          violations.push_back(fmt::format("before recovery inc{} holds something else", level));
        }
      } catch (const std::runtime_error& error) {
        violations.push_back(fmt::format("before recovery: {}; merged through inc{}, newest inc{}; {}", error.what(),
                                         through, newest, run_checked({"ls", "-l", scene.folder()})));
      }
    }
    return violations;
  }

  // The chain is right as it is, and goes on.
  Violations check_and_go_on(Scene& scene) {
    Violations violations;
    const auto expect_0 = [&](const ProgramResult& result, const std::string& what) {
      if (result.exit_code != 0) {
        violations.push_back(fmt::format("{}: exit code {}: {}", what, result.exit_code, result.err));
      }
    };
    expect_0(on_chain(scene, "list", {}), "list");
    expect_0(on_chain(scene, "verify", {}), "verify");
    if (fs::exists(scene.base().string() + ".sha256")) {  // what could not be written is gone, not wrong
      expect_0(run_program({"sha256sum", "--check", "--quiet", "vm1.sha256"}, {.working_folder = scene.folder()}),
               "sha256sum");
    }
    scene.known().expect_losses();  // a merge ends levels
    const Violations more = scene.recover_and_check(1);
    violations.insert(violations.end(), more.begin(), more.end());
    if (chain_bases(scene.base()).size() != 1) {
      violations.push_back("a new full was needed");
    }
    if (scene.levels().empty() || scene.levels().back() <= 0) {
      violations.push_back("the chain did not go on");
    }
    return violations;
  }

  // The merge goes through the second level from the top, so that a level lies on it.
  static int through_of(const Scene& scene) { return scene.levels().at(scene.levels().size() - 2); }

  void kill_around_each_file_step(Scene& scene) {
    const std::uint64_t step = all_rounds() ? 1 : 7;
    int kills = 0;
    int merged = 0;
    for (std::uint64_t k = crash_seed() % step;; k += step) {
      ASSERT_NO_FATAL_FAILURE(prepare(scene));
      const int through = through_of(scene);
      const int newest = scene.levels().back();
      const std::string when = k % 2 == 0 ? "before" : "after";
      std::map<std::string, std::string> environment{{"LD_PRELOAD", QMPBACKUP_KILL_SHIM},
                                                     {"QMPBACKUP_KILL_STEP", std::to_string(k / 2)},
                                                     {"QMPBACKUP_KILL_WHEN", when}};
      if (scene.power() != nullptr) {
        environment["QMPBACKUP_KILL_POWER"] = scene.folder();
      }
      const ProgramResult result = merge(scene, through, {}, {.environment = environment});
      if (result.signal != SIGKILL) {
        EXPECT_EQ(result.exit_code, 0) << result.err;
        break;
      }
      Scene::count_fault();
      ++kills;
      if (scene.power() != nullptr) {
        scene.power()->power_on();
      }
      merged += scene.manifest().value("merged", -1) == through ? 1 : 0;
      const std::string where = fmt::format("{} file step {}", when, k / 2);
      EXPECT_EQ(check_with_qemu_img(scene, through, newest), Violations{}) << where;
      EXPECT_EQ(check_and_go_on(scene), Violations{}) << where << scene.last_words();
    }
    EXPECT_GT(kills, 4);
    EXPECT_GT(merged, 0) << "no kill came after the commit";
    EXPECT_LT(merged, kills) << "no kill came before the commit";
    std::cout << kills << " kills, " << merged << " of them after the commit\n";
  }

  std::map<int, std::string> contents_;
};

}  // namespace

TEST_F(Merge, Killed_Around_Each_File_Step_Leaves_The_Old_Chain_Or_The_New_One) {
  Scene scene(crash_seed());
  kill_around_each_file_step(scene);
}

TEST_F(Merge, Killed_By_A_Power_Cut_Around_Each_File_Step_Leaves_The_Old_Chain_Or_The_New_One) {
  Scene scene(crash_seed(), {.powered = true});
  QMPBACKUP_REQUIRE(scene.power()->problem());
  kill_around_each_file_step(scene);
}

// A level that cannot be looked at is not gone: nothing may be deleted for it.
TEST_F(Merge, Look_That_Fails_Leaves_The_Old_Chain_Or_The_New_One) {
  Scene scene(crash_seed());
  int through = 0;
  int newest = 0;
  fail_each(
      16,
      [&](std::uint64_t k) {
        prepare(scene);
        through = through_of(scene);
        newest = scene.levels().back();
        return merge(scene, through, {}, {.environment = failing_look(scene.folder(), k)});
      },
      [&](const std::string& where) {
        EXPECT_EQ(check_with_qemu_img(scene, through, newest), Violations{}) << where;
        EXPECT_EQ(check_and_go_on(scene), Violations{}) << where << scene.last_words();
      });
}

TEST_F(Merge, Killed_At_Any_Time_Leaves_The_Old_Chain_Or_The_New_One) {
  Scene scene(crash_seed());
  for (int round = 0; round < (all_rounds() ? 60 : 5); ++round) {
    ASSERT_NO_FATAL_FAILURE(prepare(scene));
    const int through = through_of(scene);
    const int newest = scene.levels().back();
    BackgroundProgram program(tool("merge", "-backupFile", scene.base(), "-inc", std::to_string(through)));
    const int signal = round % 3 == 0 ? SIGTERM : SIGKILL;
    if (!program.finished_within(std::chrono::milliseconds(5 + scene.below(250)))) {
      Scene::count_fault();
      program.send_signal(signal);
    }
    program.wait();
    EXPECT_EQ(check_with_qemu_img(scene, through, newest), Violations{}) << "round " << round;
    EXPECT_EQ(check_and_go_on(scene), Violations{}) << "round " << round << scene.last_words();
  }
}

TEST_F(Merge, Again_And_Again_The_Chain_Goes_On) {
  Scene scene(crash_seed());
  for (int round = 0; round < 3; ++round) {
    ASSERT_NO_FATAL_FAILURE(prepare(scene));
    const bool everything = round == 1;  // else a level lies on the merged ones
    const int through = everything ? scene.levels().back() : through_of(scene);
    const ProgramResult result = merge(scene, through);
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(scene.manifest().at("merged"), through);
    EXPECT_TRUE(restored_content(file(scene, -1)) == contents_.at(through));
    EXPECT_EQ(check_and_go_on(scene), Violations{}) << "round " << round << scene.last_words();
  }
}

// The last cluster is copied whole, and only a part of it is on the disk.
TEST_F(Merge, Of_A_Disk_Of_An_Odd_Size_Goes_On) {
  constexpr std::uint64_t kSize = 5 * MiB + 512;
  Scene scene(crash_seed(), {.disk_bytes = kSize});
  for (const char* level : {"-1", "0", "1"}) {
    take(scene, {"-inc", level});
    scene.vm().write(Scene::disk, kSize - 512, 512, 7);
  }
  const ProgramResult result = merge(scene, 0);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(on_chain(scene, "verify", {}).exit_code, 0);
  EXPECT_EQ(check_and_go_on(scene), Violations{}) << scene.last_words();
}

TEST_F(Merge, Without_Room_Changes_Nothing) {
  Scene scene(crash_seed(), {.tmpfs_bytes = 32 * MiB});
  ASSERT_NE(scene.tmpfs(), nullptr);
  QMPBACKUP_REQUIRE_TMPFS(*scene.tmpfs());
  ASSERT_NO_FATAL_FAILURE(prepare(scene));
  std::uint64_t used = 0;
  for (const auto& entry : fs::directory_iterator(scene.folder())) {
    used += entry.is_regular_file() ? entry.file_size() : 0;
  }
  const auto before = files_in(scene.folder());
  for (const std::uint64_t room : {0 * KiB, 128 * KiB, 256 * KiB}) {
    scene.tmpfs()->resize(used + room + 64 * KiB);
    const ProgramResult refused = merge(scene, 1);
    EXPECT_EQ(refused.exit_code, 1);
    EXPECT_NE(refused.err.find("free"), std::string::npos) << refused.err;
    EXPECT_EQ(merge(scene, 1, {"--no-space-check"}).exit_code, 1) << room;
    EXPECT_TRUE(files_in(scene.folder()) == before) << room;
  }
  scene.tmpfs()->resize(64 * MiB);
  EXPECT_EQ(merge(scene, 1).exit_code, 0);
  EXPECT_EQ(check_and_go_on(scene), Violations{}) << scene.last_words();
}

TEST_F(Merge, Dry_Run_And_Refusals_Change_Nothing) {
  Scene scene(crash_seed());
  ASSERT_NO_FATAL_FAILURE(prepare(scene));
  write_file(file(scene, -1).string() + ".partial", "of a merge that was killed");
  const auto before = files_in(scene.folder());
  const auto expect = [&](const ProgramResult& result, int code, const std::string& words) {
    EXPECT_EQ(result.exit_code, code) << result.err;
    EXPECT_NE((result.out + result.err).find(words), std::string::npos) << result.out << result.err;
    EXPECT_TRUE(files_in(scene.folder()) == before) << words;
  };
  expect(merge(scene, 1, {"--dry-run"}), 0, "full to inc1");
  expect(merge(scene, 9), 1, "no level inc9");
  expect(merge(scene, -1), 2, "from 0 on");
  {
    const BackgroundProgram holder({"flock", scene.base().string() + ".lock", "sleep", "60"});
    while (run_program({"flock", "-n", scene.base().string() + ".lock", "true"}).exit_code == 0) {
    }
    expect(merge(scene, 1), 5, "another run");
  }
}

TEST_F(Merge, Refuses_Damage_In_Any_Level_That_It_Reads) {
  Scene scene(crash_seed());
  ASSERT_NO_FATAL_FAILURE(prepare(scene));
  for (const int level : {-1, 0, 1, 2}) {  // 2 lies on the merged ones, and is copied
    const std::string sound = read_file(file(scene, level));
    std::string damaged = sound;
    damaged[damaged.size() - 70 * KiB] = static_cast<char>(damaged[damaged.size() - 70 * KiB] ^ 1);
    write_file(file(scene, level), damaged);
    const ProgramResult result = merge(scene, 1);
    EXPECT_EQ(result.exit_code, 1) << level;
    EXPECT_NE(result.err.find("SHA-256"), std::string::npos) << result.err;
    write_file(file(scene, level), sound);
  }
  EXPECT_EQ(check_and_go_on(scene), Violations{}) << scene.last_words();
}

TEST_F(Merge, Without_A_Manifest_Or_With_A_Damaged_One_Is_Refused) {
  Scene scene(crash_seed());
  ASSERT_NO_FATAL_FAILURE(prepare(scene));
  const std::string path = scene.base().string() + ".chain.json";
  for (const std::string& text : {std::string(), read_file(path).substr(0, 300)}) {
    text.empty() ? static_cast<void>(fs::remove(path)) : write_file(path, text);
    const auto before = files_in(scene.folder());
    const ProgramResult result = merge(scene, 1);
    EXPECT_EQ(result.exit_code, 1) << result.err;
    EXPECT_TRUE(files_in(scene.folder()) == before);
  }
}

}  // namespace qmpbackup::test
