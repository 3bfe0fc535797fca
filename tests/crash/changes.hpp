// A chain of a full and inc0 to which something happens.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "crash/scene.hpp"
#include "support/requirements.hpp"

namespace qmpbackup::test {

class Changes : public testing::Test {
 protected:
  void SetUp() override { QMPBACKUP_REQUIRE_QEMU(); }
  void TearDown() override {
    if (scene_ && !HasFailure()) {
      EXPECT_EQ(scene_->check_settled(), Violations{});
    }
  }

  void begin(SceneOptions options = {}) {
    scene_ = std::make_unique<Scene>(crash_seed(), std::move(options));
    for (const char* level : {"-1", "0"}) {
      const ProgramResult result = scene_->backup({"-inc", level});
      ASSERT_EQ(result.exit_code, 0) << result.err;
      scene_->change_disk(3);
    }
    Scene::count_fault();
  }

  QemuVm& vm() { return scene_->vm(); }
  std::string bitmap() { return scene_->manifest().at("levels").back().at("bitmap"); }
  void bitmap_command(const char* command) {
    vm().control().execute(command, {{"node", vm().node_of(Scene::disk)}, {"name", bitmap()}});
  }

  void expect_refused(int exit_code, const std::string& hint, std::vector<std::string> arguments = {"-inc", "1"}) {
    const auto files = files_in(scene_->folder());
    const auto bitmaps = vm().our_bitmaps(Scene::disk);
    const ProgramResult result = scene_->backup(arguments);
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    EXPECT_NE(result.err.find(hint), std::string::npos) << result.err;
    EXPECT_TRUE(files_in(scene_->folder()) == files) << "changed: " << scene_->folder();
    EXPECT_EQ(vm().our_bitmaps(Scene::disk), bitmaps);
  }

  // `change` comes after the last look at the disk and before the point in time.
  void expect_refused_while_it_begins(const std::string& why, const std::function<void()>& change) {
    bool changed = false;
    const ProgramResult result = scene_->backup({"-inc", "1"}, [&](const Point& point) {
      if (!changed && point.command == "add-fd" && point.moment == Moment::BeforeSending) {
        changed = true;
        change();
      }
      return Verdict::Forward;
    });
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_NE(result.err.find(why), std::string::npos) << result.err;
  }

  // The old chain is sound and only cannot go on: it moves aside, and still restores. The guest writes nothing before
  // the new full: it could renew what was missing.
  void expect_new_full_needed() {
    expect_refused(3, "-inc auto");
    const ProgramResult result = scene_->backup({"-inc", "auto"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(scene_->check_settled(), Violations{});
    expect_archives(scene_->recover_and_check(1), 1);
  }
  void expect_goes_on() {
    const ProgramResult result = scene_->backup({"-inc", "1"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(scene_->check_settled(), Violations{});
    expect_archives(scene_->recover_and_check(1), 0);
  }
  void expect_archives(const Violations& violations, std::size_t count) {
    EXPECT_EQ(violations, Violations{});
    EXPECT_EQ(chain_bases(scene_->base()).size(), 1 + count);
  }

  std::unique_ptr<Scene> scene_;
};

}  // namespace qmpbackup::test
