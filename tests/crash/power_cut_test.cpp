// The power goes, and with it whatever was not synced: of the host, of the tool's machine while QEMU works on another
// one, or of the backup storage alone.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <iostream>

#include "crash/kinds.hpp"
#include "crash/scene.hpp"
#include "support/images.hpp"
#include "support/requirements.hpp"

namespace qmpbackup::test {

namespace {

namespace fs = std::filesystem;

enum class Survivor { Nothing, Qemu };

const char* name_of(Survivor survivor) {
  return survivor == Survivor::Nothing ? "NothingSurvives" : "QemuSurvives";
}

class Power_Cut : public testing::Test {
 protected:
  void SetUp() override {
    QMPBACKUP_REQUIRE_QEMU();
    QMPBACKUP_REQUIRE_PROGRAM("losetup");
    QMPBACKUP_REQUIRE_PROGRAM("mkfs.ext4");
    scene_ = std::make_unique<Scene>(crash_seed(), options_);
    QMPBACKUP_REQUIRE(scene_->power()->problem());
  }

  Scene& scene() { return *scene_; }

  // As prepare(), and the chains that were moved aside do not fill the storage.
  void prepare_with_room(Kind kind) {
    constexpr std::size_t kManyChains = 4;
    if (chain_bases(scene().base()).size() > kManyChains) {
      scene().new_chain();
    }
    prepare(scene(), kind);
  }

  // A run of the tool is over. Whatever it says to be committed is so from here on.
  void remember_committed() { EXPECT_EQ(scene().known().check(scene().base()), Violations{}); }

  void come_back(Survivor survivor) {
    Scene::count_fault();
    if (survivor == Survivor::Nothing) {
      scene().vm().kill();
    }
    scene().start_again();
  }

  // Where QEMU has its bitmaps still, they fit what the storage has: no new full is needed but for the run's own.
  void recover_and_check(Kind kind, Survivor survivor, std::size_t chains, const std::string& where) {
    EXPECT_EQ(scene().recover_and_check(1), Violations{}) << where << scene().last_words();
    if (survivor == Survivor::Qemu) {
      EXPECT_LE(chain_bases(scene().base()).size(), chains + (kind == Kind::NewFullOverBrokenChain ? 1 : 0))
          << where << scene().last_words();
    }
  }

  std::map<std::string, std::string> killing_at(std::uint64_t step, const char* when) {
    return {{"LD_PRELOAD", QMPBACKUP_KILL_SHIM},
            {"QMPBACKUP_KILL_STEP", std::to_string(step)},
            {"QMPBACKUP_KILL_WHEN", when},
            {"QMPBACKUP_KILL_POWER", scene().folder()}};
  }

  SceneOptions options_{.powered = true};
  std::unique_ptr<Scene> scene_;
};

class Host_Power_Cut : public Power_Cut {
 protected:
  Host_Power_Cut() { options_.powered_disk = true; }
};

using Case = std::tuple<Kind, Survivor>;

std::string case_name(const testing::TestParamInfo<Case>& info) {
  return fmt::format("{}_{}", name_of(std::get<Kind>(info.param)), name_of(std::get<Survivor>(info.param)));
}

class Power_Cut_In_A_Run : public Power_Cut, public testing::WithParamInterface<Case> {};
class Storage_Power_Cut : public Power_Cut, public testing::WithParamInterface<Kind> {};

}  // namespace

TEST_P(Power_Cut_In_A_Run, Around_A_File_Step_Loses_Nothing) {
  const auto [kind, survivor] = GetParam();
  const std::uint64_t stride = all_rounds() ? 1 : kind == Kind::NewFullOverBrokenChain ? 23 : 13;
  int cuts = 0;
  for (std::uint64_t k = crash_seed() % stride;; k += stride) {
    ASSERT_NO_FATAL_FAILURE(prepare_with_room(kind));
    remember_committed();
    const std::size_t chains = chain_bases(scene().base()).size();
    const char* when = k % 2 == 0 ? "before" : "after";
    scene().set_environment(killing_at(k / 2, when));
    const ProgramResult result = scene().backup(arguments_of(kind));
    scene().set_environment({});
    if (result.signal != SIGKILL) {
      EXPECT_EQ(result.exit_code, 0) << result.err;
      break;
    }
    ++cuts;
    const std::string where = fmt::format("{} file step {}", when, k / 2);
    come_back(survivor);
    recover_and_check(kind, survivor, chains, where);
  }
  EXPECT_GT(cuts, 2);
  std::cout << case_name({GetParam(), 0}) << ": " << cuts << " cuts\n";
}

TEST_P(Power_Cut_In_A_Run, When_It_Has_Succeeded_Keeps_The_Level) {
  const auto [kind, survivor] = GetParam();
  ASSERT_NO_FATAL_FAILURE(prepare_with_room(kind));
  ASSERT_EQ(scene().backup(arguments_of(kind)).exit_code, 0) << scene().last_words();
  remember_committed();
  const auto files = files_in(scene().folder());
  const auto archives = chain_bases(scene().base());
  scene().power()->cut_power();
  come_back(survivor);
  EXPECT_TRUE(files_in(scene().folder()) == files) << scene().folder();
  EXPECT_EQ(chain_bases(scene().base()), archives);
  EXPECT_EQ(scene().recover_and_check(1), Violations{}) << scene().last_words();
}

TEST_F(Power_Cut, When_A_Merge_Or_A_Restore_Has_Succeeded_Keeps_What_It_Made) {
  for (const char* level : {"-1", "0", "1"}) {
    ASSERT_EQ(scene().backup({"-inc", level}).exit_code, 0) << scene().last_words();
    scene().change_disk(3);
  }
  const std::string before = restored_content(scene().base().string() + ".inc1.qcow2");
  run_checked(tool("merge", "-backupFile", scene().base(), "-inc", "0"));
  const auto files = files_in(scene().folder());
  scene().power()->cut_power();
  come_back(Survivor::Qemu);
  EXPECT_TRUE(files_in(scene().folder()) == files) << scene().folder();
  EXPECT_TRUE(restored_content(scene().base().string() + ".inc1.qcow2") == before);
  for (const char* format : {"raw", "qcow2"}) {
    const fs::path output = scene().power()->path() / format;
    run_checked(tool("restore", "-backupFile", scene().base(), "--format", format, "--output", output));
    scene().power()->cut_power();
    come_back(Survivor::Qemu);
    EXPECT_TRUE(restored_content(output) == before) << output;
  }
}

INSTANTIATE_TEST_SUITE_P(Each, Power_Cut_In_A_Run,
                         testing::Combine(testing::Values(Kind::Full, Kind::Incremental, Kind::NewFullOverBrokenChain),
                                          testing::Values(Survivor::Nothing, Survivor::Qemu)),
                         case_name);

// The disk loses what the guest did not flush, and its image holds a bitmap that does not know of it: QEMU marks that
// as in use when it opens the image, durably.
TEST_F(Host_Power_Cut, Around_A_File_Step_Loses_Nothing_But_The_Bitmaps) {
  const std::uint64_t stride = all_rounds() ? 1 : 17;
  int cuts = 0;
  for (std::uint64_t k = crash_seed() % stride;; k += stride) {
    ASSERT_NO_FATAL_FAILURE(prepare_with_room(Kind::Incremental));
    scene().vm().restart();
    scene().power()->sync();
    scene().change_disk(3);
    remember_committed();
    const char* when = k % 2 == 0 ? "before" : "after";
    scene().set_environment(killing_at(k / 2, when));
    const ProgramResult result = scene().backup(arguments_of(Kind::Incremental));
    scene().set_environment({});
    if (result.signal != SIGKILL) {
      EXPECT_EQ(result.exit_code, 0) << result.err;
      break;
    }
    ++cuts;
    come_back(Survivor::Nothing);
    const std::size_t chains = chain_bases(scene().base()).size();
    EXPECT_EQ(scene().recover_and_check(), Violations{})
        << fmt::format("{} file step {}", when, k / 2) << scene().last_words();
    EXPECT_EQ(chain_bases(scene().base()).size(), chains + 1) << scene().last_words();
  }
  EXPECT_GT(cuts, 2);
}

// The tool lives on, and QEMU with its bitmaps: they must fit what the storage has when it is there again.
TEST_P(Storage_Power_Cut, At_Any_Message_Loses_Nothing) {
  const int stride = all_rounds() ? 1 : GetParam() == Kind::Full ? 53 : 79;
  int cuts = 0;
  for (int k = static_cast<int>(crash_seed() % static_cast<std::uint64_t>(stride));; k += stride) {
    ASSERT_NO_FATAL_FAILURE(prepare_with_room(GetParam()));
    remember_committed();
    const std::size_t chains = chain_bases(scene().base()).size();
    std::string where;
    const auto result = scene().backup(arguments_of(GetParam()), [&](const Point& point) {
      if (where.empty() && point.message == k / 4 && point.moment == static_cast<Moment>(k % 4)) {
        where = describe(point);
        scene().power()->cut_power();
      }
      return Verdict::Forward;
    });
    if (where.empty()) {
      break;
    }
    ++cuts;
    EXPECT_TRUE(result.exit_code == 0 || result.exit_code == 1) << where << scene().last_words();
    come_back(Survivor::Qemu);
    if (result.exit_code == 0) {
      remember_committed();
    }
    recover_and_check(GetParam(), Survivor::Qemu, chains, where);
  }
  EXPECT_GT(cuts, 1);
  std::cout << name_of(GetParam()) << ": " << cuts << " cuts\n";
}

INSTANTIATE_TEST_SUITE_P(Each, Storage_Power_Cut,
                         testing::Values(Kind::Full, Kind::Incremental, Kind::NewFullOverBrokenChain), kind_name);

}  // namespace qmpbackup::test
