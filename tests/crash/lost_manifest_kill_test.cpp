// A run is killed, and what it wrote into the manifest is lost with it: the next run needs no human all the same, and
// nothing of the killed one stays in QEMU.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <iostream>
#include <tuple>

#include "crash/kinds.hpp"
#include "crash/scene.hpp"
#include "support/images.hpp"
#include "support/requirements.hpp"

namespace qmpbackup::test {
namespace {

namespace fs = std::filesystem;

enum class Harm { Removed, Cut, OlderPutBack };

std::string name_of(Harm harm) {
  return harm == Harm::Removed ? "Removed" : harm == Harm::Cut ? "Cut" : "OlderPutBack";
}

class Manifest_After_A_Kill : public testing::TestWithParam<std::tuple<Kind, Harm>> {
 protected:
  void SetUp() override { QMPBACKUP_REQUIRE_QEMU(); }

  static std::string read_if_there(const fs::path& path) { return fs::exists(path) ? read_file(path) : ""; }

  static void harm_manifest(const fs::path& manifest, const std::string& older) {
    const Harm harm = std::get<Harm>(GetParam());
    if (harm == Harm::Cut && fs::exists(manifest)) {
      fs::resize_file(manifest, fs::file_size(manifest) / 2);
    } else if (harm == Harm::OlderPutBack && !older.empty()) {
      write_file(manifest, older);
    } else if (harm != Harm::Cut) {
      fs::remove(manifest);
    }
  }

  // A new full is needed because a level is gone, and the old chain's bitmap is still there.
  static void prepare_with_bitmap(Scene& scene, Kind kind) {
    if (kind != Kind::NewFullOverBrokenChain) {
      prepare(scene, kind);
      return;
    }
    while (scene.levels().size() < 2) {
      ASSERT_EQ(scene.backup({"-inc", "auto"}).exit_code, 0);
    }
    fs::remove(scene.base().string() + ".full.qcow2");
    scene.known().expect_losses();
  }

  // Levels of a chain without its manifest restore, but a judge that reads the manifest finds none.
  static void remove_archives(Scene& scene) {
    for (const fs::path& base : chain_bases(scene.base())) {
      if (base != scene.base()) {
        fs::remove_all(base.parent_path());
      }
    }
    scene.known().expect_losses();
  }
};

TEST_P(Manifest_After_A_Kill, Is_Lost_And_Nothing_Is_Left_In_QEMU) {
  const Kind kind = std::get<Kind>(GetParam());
  const int step = all_rounds() ? 1 : 83;
  Scene scene(crash_seed());
  int rounds = 0;
  for (int k = static_cast<int>(crash_seed() % static_cast<std::uint64_t>(step));; k += step, ++rounds) {
    ASSERT_NO_FATAL_FAILURE(prepare_with_bitmap(scene, kind));
    const fs::path manifest = scene.base().string() + ".chain.json";
    const std::string older = read_if_there(manifest);
    std::string where;
    int at = 0;
    scene.backup(arguments_of(kind), [&](const Point& point) {
      if (at++ != k) {
        return Verdict::Forward;
      }
      where = describe(point);
      return scene.kill_tool(point);
    });
    if (where.empty()) {
      break;
    }
    harm_manifest(manifest, older);
    const ProgramResult next = scene.backup({"-inc", "auto"});
    EXPECT_EQ(next.exit_code, 0) << where << scene.last_words();
    remove_archives(scene);
    EXPECT_EQ(scene.check_settled(), Violations{}) << where << scene.last_words();
    EXPECT_EQ(scene.recover_and_check(1), Violations{}) << where << scene.last_words();
    if (HasFailure()) {
      return;
    }
  }
  EXPECT_GT(rounds, 1);
  std::cout << name_of(kind) << ", " << name_of(std::get<Harm>(GetParam())) << ": " << rounds << " kills\n";
}

INSTANTIATE_TEST_SUITE_P(Each, Manifest_After_A_Kill,
                         testing::Combine(testing::Values(Kind::Full, Kind::Incremental, Kind::NewFullOverBrokenChain),
                                          testing::Values(Harm::Removed, Harm::Cut, Harm::OlderPutBack)),
                         [](const auto& param) {
                           return std::string(name_of(std::get<Kind>(param.param))) + "_" +
                                  name_of(std::get<Harm>(param.param));
                         });

}  // namespace
}  // namespace qmpbackup::test
