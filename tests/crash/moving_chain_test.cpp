// list, verify and restore while a chain changes under them, after a run that was killed on the way, and where they may
// not write.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <random>
#include <thread>

#include "crash/made_chain.hpp"
#include "support/requirements.hpp"

namespace qmpbackup::test {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

std::map<std::string, std::string> contents_of(const fs::path& folder) {
  std::map<std::string, std::string> contents;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    contents[entry.path()] = entry.is_regular_file() ? read_file(entry.path()) : "";
  }
  return contents;
}

class MovingChain : public testing::Test {
 protected:
  void SetUp() override {
    QMPBACKUP_REQUIRE_PROGRAM("qemu-img");
    QMPBACKUP_REQUIRE_PROGRAM("qemu-io");
  }

  // Everything restores as it should, for a user who may read only.
  void expect_readable(const MadeChain& chain, const std::vector<int>& levels, const std::string& user) const {
    for (const auto& entry : fs::recursive_directory_iterator(chain.folder())) {
      fs::permissions(entry.path(), fs::perms{0755});
    }
    const RunOptions reader{.user = user};
    const auto before = contents_of(chain.folder());
    const ProgramResult list = chain.run("list", {"--json"}, reader);
    ASSERT_EQ(list.exit_code, 0) << list.err;
    std::vector<int> listed;
    const json summary = json::parse(list.out);
    for (const json& level : summary.at("levels")) {
      listed.push_back(level.at("level"));
      EXPECT_EQ(level.at("fault"), nullptr);
    }
    EXPECT_EQ(listed, levels);
    for (const std::vector<std::string>& how : {std::vector<std::string>{}, {"--deep"}}) {
      const ProgramResult verify = chain.run("verify", how, reader);
      EXPECT_EQ(verify.exit_code, 0) << verify.out << verify.err;
    }
    const TempFolder target("/tmp");
    fs::permissions(target.path(), fs::perms{0777});
    for (const int level : levels) {
      const int shown = level == -1 ? chain.read_manifest().merged.value_or(kFullLevel).number : level;
      const std::string output = target / level_name(Level{level});
      const ProgramResult restore =
          chain.run("restore", {"-inc", std::to_string(level), "--format", "raw", "--output", output}, reader);
      ASSERT_EQ(restore.exit_code, 0) << restore.err;
      EXPECT_TRUE(read_file(output) == chain.content(shown)) << level_name(Level{level});
    }
    EXPECT_TRUE(contents_of(chain.folder()) == before) << "a reader wrote";
  }

  static std::vector<int> numbers(const Manifest& manifest) {
    std::vector<int> found;
    for (const LevelRecord& record : manifest.levels) {
      found.push_back(record.level.number);
    }
    return found;
  }
};

TEST_F(MovingChain, Readers_Who_May_Not_Write_See_Through_A_Merge_That_Was_Killed) {
  QMPBACKUP_REQUIRE(std::string(::geteuid() == 0 ? "" : "being another user needs root"));
  int pending = 0;
  for (int step = 0;; ++step) {
    const MadeChain chain(4);
    const ProgramResult merge = chain.run("merge", {"-inc", "1"},
                                          {.environment = {{"LD_PRELOAD", QMPBACKUP_KILL_SHIM},
                                                           {"QMPBACKUP_KILL_STEP", std::to_string(step)},
                                                           {"QMPBACKUP_KILL_WHEN", "after"}}});
    if (merge.signal != SIGKILL) {
      ASSERT_EQ(merge.exit_code, 0) << merge.err;
      break;
    }
    const Manifest manifest = chain.read_manifest();
    if (!manifest.pending_merge && step % 8 != 0) {
      continue;  // the old chain, or the new one
    }
    pending += manifest.pending_merge ? 1 : 0;
    SCOPED_TRACE(fmt::format("after file step {}", step));
    ASSERT_NO_FATAL_FAILURE(expect_readable(chain, numbers(manifest), "nobody"));
    if (manifest.pending_merge) {
      EXPECT_EQ(chain.run("restore", {"--overlay", "--output", chain.folder() / "o"}, {.user = "nobody"}).exit_code, 1);
    }
  }
  EXPECT_GT(pending, 3);
}

TEST_F(MovingChain, Readers_Do_Not_Wait_For_A_Run_And_Finish_A_Merge_Where_They_May) {
  const MadeChain chain(3);
  ASSERT_EQ(chain.run("merge", {"-inc", "0"}).exit_code, 0);
  Manifest manifest = chain.read_manifest();
  manifest.pending_merge = PendingMerge{Level{0}};
  fs::rename(chain.file(-1), chain.file(-1).string() + ".partial");
  write_file(chain.file(-1), "the old full");
  write_file(chain.manifest_file(), format_manifest(manifest));
  {
    const BackgroundProgram holder({"flock", "-F", chain.base().string() + ".lock", "sleep", "60"});
    while (run_program({"flock", "-n", chain.base().string() + ".lock", "true"}).exit_code == 0) {
    }
    expect_readable(chain, {-1, 1, 2}, "");
    const ProgramResult list = chain.run("list");
    EXPECT_NE(list.out.find("putting its files in place now"), std::string::npos) << list.out;
  }
  EXPECT_EQ(chain.run("list").exit_code, 0);
  EXPECT_FALSE(chain.read_manifest().pending_merge);
  EXPECT_FALSE(fs::exists(chain.file(-1).string() + ".partial"));
  expect_readable(chain, {-1, 1, 2}, "");
}

// The states through which a new full moves the old chain into its archive.
TEST_F(MovingChain, Old_Chain_Is_Whole_At_Each_Step_Of_Its_Way_Into_The_Archive) {
  for (int step = 0; step < 8; ++step) {
    MadeChain chain(3);
    const fs::path archive = chain.folder() / "d.20261120T020000Z";
    Pending pending = MadeChain::pending_full(*ChainId::parse("1b3c6f52-1d2e-4f60-8a9b-0123456789ab"));
    pending.archive = "20261120T020000Z";
    pending.verified = chain.manifest().levels.front();
    pending.verified->bitmap = pending.bitmap;
    chain.manifest().pending = pending;
    chain.write_manifest();
    write_file(chain.folder() / pending.partial, "the new full");
    fs::create_directory(archive);
    for (int level = -1; level < 3; ++level) {
      if (level + 1 < step) {
        fs::create_hard_link(chain.file(level), archive / MadeChain::name(level));
      }
    }
    for (int level = -1; level < 3; ++level) {
      if (level + 5 < step) {
        fs::remove(chain.file(level));
      }
    }
    if (step == 7) {
      fs::remove(chain.file(2));
      fs::rename(chain.folder() / pending.partial, chain.file(-1));
    }
    SCOPED_TRACE(step);
    expect_readable(chain, {-1, 0, 1, 2}, "");
  }
}

TEST_F(MovingChain, No_False_Alarm_Beside_Merges) {
  constexpr int kLevels = 24;
  const MadeChain chain(kLevels);
  std::atomic<bool> over = false;
  std::map<std::string, std::map<int, int>> codes;  // by command
  std::vector<std::string> alarms;
  std::thread reader([&] {
    const TempFolder target("/tmp");
    const std::string output = target / "o";
    const auto note = [&](const std::string& command, const ProgramResult& result) {
      ++codes[command][result.exit_code];
      if (result.exit_code != 0 && result.exit_code != 5) {
        alarms.push_back(command + ": " + result.out + result.err);
      }
    };
    while (!over) {
      note("verify", chain.run("verify"));
      note("list", chain.run("list"));
      const ProgramResult restore = chain.run("restore", {"--format", "raw", "--output", output});
      note("restore", restore);
      if (restore.exit_code == 0) {
        EXPECT_TRUE(read_file(output) == chain.content(kLevels - 1)) << "restored something else";
        fs::remove(output);
      }
    }
  });
  for (int through = 0; through < kLevels - 1; ++through) {
    for (;;) {  // a reader that finishes a merge holds the lock for a moment
      const ProgramResult merge = chain.run("merge", {"-inc", std::to_string(through)});
      EXPECT_TRUE(merge.exit_code == 0 || merge.exit_code == 5) << merge.err;
      if (merge.exit_code != 5) {
        break;
      }
    }
  }
  over = true;
  reader.join();
  EXPECT_EQ(alarms, std::vector<std::string>());
  for (const auto& [command, by_code] : codes) {
    EXPECT_GT(by_code.contains(0) ? by_code.at(0) : 0, 0) << command;
  }
}

TEST_F(MovingChain, Damage_Is_Told_Beside_A_Run_That_Only_Adds_A_Level) {
  const MadeChain chain(2);
  std::string bytes = read_file(chain.file(0));
  bytes[bytes.size() - 100] = static_cast<char>(bytes[bytes.size() - 100] ^ 1);
  write_file(chain.file(0), bytes);
  const std::string partial = chain.file(2).string() + ".partial";
  BackgroundProgram writer({"sh", "-c", "while :; do rm -f \"$1\"; echo x > \"$1\"; done", "sh", partial});
  const ProgramResult verify = chain.run("verify");
  EXPECT_EQ(verify.exit_code, 6) << verify.err;
  const ProgramResult list = chain.run("list");
  EXPECT_EQ(list.exit_code, 0) << list.err;
}

TEST_F(MovingChain, Older_Copy_Of_The_Manifest_Hides_No_Level) {
  MadeChain chain(4);
  std::string checksums;
  for (const LevelRecord& level : chain.manifest().levels) {
    checksums += *level.sha256 + "  " + level.file + "\n";
  }
  write_file(chain.base().string() + ".sha256", checksums);
  chain.manifest().levels.pop_back();
  chain.write_manifest();
  const auto before = contents_of(chain.folder());
  const std::string found = "d.inc3.qcow2 is not in the manifest";
  const ProgramResult verify = chain.run("verify");
  EXPECT_EQ(verify.exit_code, 6);
  EXPECT_NE(verify.err.find(found), std::string::npos) << verify.err;
  EXPECT_NE(chain.run("list").out.find(found), std::string::npos);
  for (const char* level : {"--inc=3", "--at=2100-01-01"}) {
    const std::string copy = chain.folder() / "copy";
    const ProgramResult restore = chain.run("restore", {level, "--format", "raw", "--output", copy});
    EXPECT_EQ(restore.exit_code, 0);
    EXPECT_NE(restore.err.find(found), std::string::npos) << restore.err;
    EXPECT_TRUE(read_file(copy) == chain.content(3));
    fs::remove(copy);
  }
  const ProgramResult merge = chain.run("merge", {"-inc", "2"});
  EXPECT_EQ(merge.exit_code, 1);
  EXPECT_NE(merge.err.find(found), std::string::npos) << merge.err;
  fs::remove(chain.base().string() + ".lock");
  EXPECT_TRUE(contents_of(chain.folder()) == before);
  fs::remove(chain.base().string() + ".sha256");
  const ProgramResult unknown = chain.run("restore", {"--output", chain.folder() / "copy"});
  EXPECT_EQ(unknown.exit_code, 1);
  EXPECT_NE(unknown.err.find("to go by the files alone, move"), std::string::npos) << unknown.err;
}

TEST_F(MovingChain, Overlay_Follows_No_Link_Out_Of_The_Folder) {
  const MadeChain chain(2);
  fs::remove(chain.manifest_file());
  const std::string elsewhere = chain.folder() / MadeChain::name(0);
  run_checked({"qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", elsewhere, chain.file(1)});
  const std::string output = chain.folder() / "overlay";
  const ProgramResult overlay = chain.run("restore", {"--overlay", "--output", output});
  EXPECT_EQ(overlay.exit_code, 1);
  EXPECT_NE(overlay.err.find("leads out of the chain's folder"), std::string::npos) << overlay.err;
  EXPECT_FALSE(fs::exists(output));
  EXPECT_EQ(chain.run("restore", {"--output", output, "--format", "raw"}).exit_code, 0);
  EXPECT_TRUE(read_file(output) == chain.content(1));
}

// Without a manifest and without checksums only reading shows that compressed clusters are gone.
TEST_F(MovingChain, Verify_Reads_Levels_Of_Which_Nothing_Is_Known) {
  const MadeChain chain(1);
  fs::remove(chain.manifest_file());
  std::string disk(MadeChain::disk_size, '\0');
  std::mt19937 random(1);
  std::generate(disk.begin(), disk.end(), [&] { return static_cast<char>(random() % 128); });
  write_file(chain.folder() / "disk", disk);
  run_checked({"qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "cluster_size=1M,compression_type=zstd",
               chain.folder() / "disk", chain.file(-1)});
  EXPECT_EQ(chain.run("verify").exit_code, 0);
  fs::resize_file(chain.file(-1), fs::file_size(chain.file(-1)) - 400'000);
  EXPECT_EQ(chain.run("verify").exit_code, 6);
}

TEST_F(MovingChain, Merge_Dry_Run_Leaves_Everything_As_It_Is) {
  for (const bool pending : {false, true}) {
    const MadeChain chain(4);
    if (pending) {
      ASSERT_EQ(chain.run("merge", {"-inc", "0"}).exit_code, 0);
      Manifest manifest = chain.read_manifest();
      manifest.pending_merge = PendingMerge{Level{0}};
      write_file(chain.manifest_file(), format_manifest(manifest));
      fs::rename(chain.file(-1), chain.file(-1).string() + ".partial");
      write_file(chain.file(-1), "the old full");
      fs::remove(chain.base().string() + ".lock");
    } else {
      write_file(chain.file(-1).string() + ".partial", "of a merge that was killed");
    }
    const auto before = contents_of(chain.folder());
    const ProgramResult dry = chain.run("merge", {"-inc", "2", "--dry-run"});
    EXPECT_EQ(dry.exit_code, 0) << dry.err;
    EXPECT_TRUE(contents_of(chain.folder()) == before) << pending;
  }
}

TEST_F(MovingChain, Merge_Ends_Soon_After_Ctrl_C_While_It_Copies_The_Next_Level) {
  MadeChain chain(2);
  // A next level that takes long to copy: on /tmp, which shares no blocks, and with a hole for a quick making of it.
  fs::resize_file(chain.file(1), 3ULL << 30);
  chain.manifest().levels.back().file_size = 3ULL << 30;
  chain.manifest().levels.back().sha256.reset();
  chain.write_manifest();
  const auto before = read_file(chain.file(-1));
  BackgroundProgram merge(tool("merge", "-backupFile", chain.base(), "-inc", "0", "--no-space-check"));
  const std::string copy = chain.file(1).string() + ".partial";
  while (merge.running() && !fs::exists(copy)) {
  }
  merge.send_signal(SIGINT);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(merge.wait().exit_code, 130) << merge.err();
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
  EXPECT_FALSE(fs::exists(copy));
  EXPECT_TRUE(read_file(chain.file(-1)) == before);
}

TEST_F(MovingChain, Verify_Checks_Again_Only_What_Was_Not_Checked_At_Its_Commit) {
  const TempFolder programs("/tmp");
  write_file(programs / "qemu-img",
             "#!/bin/sh\necho \"$1\" >> \"${0%/*}/log\"\nPATH=${PATH#*:}\nexec qemu-img \"$@\"\n");
  fs::permissions(programs / "qemu-img", fs::perms{0755});
  MadeChain chain(2);
  const auto checks_of = [&](const std::vector<std::string>& how) {
    write_file(programs / "log", "");
    const ProgramResult verify =
        chain.run("verify", how, {.environment = {{"PATH", programs.path().string() + ":" + std::getenv("PATH")}}});
    EXPECT_EQ(verify.exit_code, 0) << verify.err;
    EXPECT_NE(verify.out.find("inc1  ok       file, sha256, structure, completeness\n"), std::string::npos)
        << verify.out;
    const std::string log = read_file(programs / "log");
    int checks = 0;
    for (auto at = log.find("check"); at != std::string::npos; at = log.find("check", at + 1)) {
      ++checks;
    }
    return checks;
  };
  EXPECT_EQ(checks_of({}), 3);
  for (LevelRecord& record : chain.manifest().levels) {
    record.checked = true;
  }
  chain.manifest().levels.back().checked = false;
  chain.write_manifest();
  EXPECT_EQ(checks_of({}), 1);
  EXPECT_EQ(checks_of({"--deep"}), 3);
  ASSERT_EQ(chain.run("merge", {"-inc", "0"}).exit_code, 0);
  EXPECT_EQ(checks_of({}), 0) << "a merge checks what it makes";
}

TEST_F(MovingChain, What_Was_Merged_Away_Is_Named) {
  const MadeChain chain(4);
  const ProgramResult merge = chain.run("merge", {"-inc", "1"});
  ASSERT_EQ(merge.exit_code, 0);
  EXPECT_NE(merge.out.find("overlays"), std::string::npos) << merge.out;
  const ProgramResult restore = chain.run("restore", {"-inc", "0", "--output", chain.folder() / "o"});
  EXPECT_EQ(restore.exit_code, 1);
  EXPECT_NE(restore.err.find("level inc0 of " + chain.base().string() + " was merged into the full"), std::string::npos)
      << restore.err;
  EXPECT_NE(chain.run("list").out.find("merged: the changes of inc0 to inc1 are in the full"), std::string::npos);
  EXPECT_NE(chain.run("merge", {"-inc", "1"}).err.find("in the full already"), std::string::npos);
}

// Whatever it names would be removed with it.
TEST_F(MovingChain, Run_Under_Way_That_Names_What_No_Run_Makes_Is_Damage) {
  MadeChain chain(2);
  for (const bool of_file : {true, false}) {
    Pending pending = MadeChain::pending_full(chain.manifest().chain);
    (of_file ? pending.partial : pending.bitmap.value) = "important";
    chain.manifest().pending = pending;
    chain.write_manifest();
    const json summary = json::parse(chain.run("list", {"--json"}).out);
    EXPECT_EQ(summary.at("manifest"), "damaged");
    EXPECT_EQ(summary.at("levels").size(), 3U);
  }
}

TEST_F(MovingChain, Chain_With_A_First_Full_Under_Way_Has_No_Level_To_Restore) {
  MadeChain chain(0);
  fs::remove(chain.file(-1));
  chain.manifest().levels.clear();
  chain.manifest().pending = MadeChain::pending_full(chain.manifest().chain);
  chain.write_manifest();
  const ProgramResult verify = chain.run("verify");
  EXPECT_EQ(verify.exit_code, 1);
  EXPECT_NE(verify.err.find("has no level yet"), std::string::npos) << verify.err;
  EXPECT_NE(chain.run("merge", {"-inc", "0"}).err.find("a backup of level full is pending"), std::string::npos);
  EXPECT_NE(chain.run("list").out.find("the next backup resolves it"), std::string::npos);
  const BackgroundProgram holder({"flock", "-F", chain.base().string() + ".lock", "sleep", "60"});
  while (run_program({"flock", "-n", chain.base().string() + ".lock", "true"}).exit_code == 0) {
  }
  EXPECT_NE(chain.run("list").out.find("a run works on it now"), std::string::npos) << chain.run("list").out;
  EXPECT_NE(chain.run("verify").err.find("being taken now"), std::string::npos);
}

}  // namespace

}  // namespace qmpbackup::test
