// What a backup of a real VM prints, and what a dry run leaves alone.
#include <csignal>

#include "cli/cli_fixture.hpp"
#include "support/qemu_vm.hpp"

namespace qmpbackup::test {
namespace {

using nlohmann::json;

constexpr std::uint64_t kDiskSize = 8 * 1024 * 1024;

class BackupOutput : public CliTest {
 protected:
  void SetUp() override {
    QMPBACKUP_REQUIRE_QEMU();
    make_image(folder_ / "disk.qcow2", "qcow2", kDiskSize);
    vm_ = std::make_unique<QemuVm>(folder_, std::vector<DiskSpec>{{.id = "drive0", .image = folder_ / "disk.qcow2"}},
                                   VmOptions{.name = "web1"});
    vm_->start();
    vm_->write("drive0", 0, 1024 * 1024, 7);
    std::filesystem::create_directory(backups());
  }

  std::filesystem::path backups() const { return folder_ / "backup"; }
  std::string base() const { return (backups() / "drive0").string(); }

  std::vector<std::string> arguments(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> argv =
        tool("-socket", vm_->socket().string(), "-backupFile", base(), "-deviceToBackup", "drive0");
    argv.insert(argv.end(), more.begin(), more.end());
    return argv;
  }
  ProgramResult backup(const std::vector<std::string>& more = {}) const { return run_program(arguments(more)); }

  std::vector<std::string> backup_files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(backups())) {
      names.push_back(entry.path().filename());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  // All that a run could have changed.
  json world() {
    json seen;
    for (const char* query : {"query-named-block-nodes", "query-block", "query-jobs", "query-fdsets", "query-status"}) {
      seen["qemu"][query] = vm_->control().execute(query);
    }
    seen["files"] = backup_files();
    for (const std::string& name : backup_files()) {
      seen["content"][name] = std::hash<std::string>()(read_file(backups() / name));
    }
    return seen;
  }

  std::unique_ptr<QemuVm> vm_;
};

TEST_F(BackupOutput, Success_Is_One_Line_On_Stdout_And_Silence_On_Stderr) {
  const ProgramResult full = backup();
  EXPECT_EQ(full.exit_code, 0) << full.err;
  EXPECT_EQ(full.err, "");
  ASSERT_EQ(lines_of(full.out).size(), 1U) << full.out;
  EXPECT_TRUE(full.out.starts_with("drive0: full -> " + base() + ".full.qcow2  8.0 MiB disk, ")) << full.out;
  EXPECT_NE(full.out.find(" written, "), std::string::npos);
  EXPECT_TRUE(full.out.ends_with(" s\n"));
  vm_->write("drive0", 0, 65536, 8);
  const ProgramResult inc = backup({"-inc", "0"});
  EXPECT_EQ(inc.exit_code, 0) << inc.err;
  EXPECT_TRUE(inc.out.starts_with("drive0: inc0 -> " + base() + ".inc0.qcow2  ")) << inc.out;
  EXPECT_NE(inc.out.find(" copied, "), std::string::npos) << inc.out;
}

TEST_F(BackupOutput, Json_Is_Lines_That_Parse_And_End_In_A_Summary) {
  for (const int level : {-1, 0}) {
    const ProgramResult result = backup({"--json", "-inc", std::to_string(level)});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.err, "");
    const auto lines = json_lines_of(result.out);
    ASSERT_FALSE(lines.empty());
    for (std::size_t i = 0; i + 1 < lines.size(); ++i) {
      EXPECT_EQ(lines[i].at("message_type"), "status");
      EXPECT_TRUE(lines[i].at("bytes_done").is_number_unsigned() && lines[i].at("bytes_total").is_number_unsigned() &&
                  lines[i].at("bytes_per_second").is_number_unsigned());
      EXPECT_EQ(lines[i].at("device"), "drive0");
    }
    const json& summary = lines.back();
    EXPECT_EQ(summary.at("message_type"), "summary");
    EXPECT_EQ(summary.at("command"), "backup");
    EXPECT_EQ(summary.at("vm"), "web1");
    EXPECT_TRUE(summary.at("warnings").empty());
    ASSERT_EQ(summary.at("disks").size(), 1U);
    const json& disk = summary.at("disks")[0];
    EXPECT_EQ(disk.at("device"), "drive0");
    EXPECT_EQ(disk.at("level"), level);
    EXPECT_EQ(disk.at("file"), base() + (level < 0 ? ".full.qcow2" : ".inc0.qcow2"));
    EXPECT_EQ(disk.at("sync"), level < 0 ? "full" : "bitmap");
    EXPECT_EQ(disk.at("virtual_size"), kDiskSize);
    EXPECT_EQ(disk.at("file_size"), std::filesystem::file_size(disk.at("file").get<std::string>()));
    EXPECT_EQ(disk.at("sha256").get<std::string>(), run_checked({"sha256sum", disk.at("file")}).substr(0, 64));
    EXPECT_TRUE(disk.at("reason").is_null());
    EXPECT_TRUE(disk.at("seconds").is_number());
    EXPECT_TRUE(disk.at("bitmap").get<std::string>().starts_with("qmpbackup-"));
  }
}

TEST_F(BackupOutput, Quiet_Says_Nothing_Of_A_Success_But_All_Of_A_Failure) {
  const ProgramResult good = backup({"--quiet"});
  EXPECT_EQ(good.exit_code, 0);
  EXPECT_EQ(good.out + good.err, "");
  expect_refusal(backup({"--quiet"}), 1, "exists already");
}

TEST_F(BackupOutput, Progress_Moves_On_A_Terminal_And_Leaves_The_Final_Line_Clean) {
  const ProgramResult result = run_on_pty(arguments(), {.columns = 60});
  EXPECT_EQ(result.exit_code, 0) << result.out;
  EXPECT_NE(result.out.find("\r\x1b[K"), std::string::npos) << "the line is redrawn";
  EXPECT_NE(result.out.find("100%  8.0 MiB of 8.0 MiB"), std::string::npos) << result.out;
  const std::size_t last_clear = result.out.rfind("\x1b[K");
  EXPECT_EQ(result.out.find("drive0: full -> "), last_clear + 3) << result.out;
  for (std::size_t at = result.out.find("\x1b[K"); at < last_clear; at = result.out.find("\x1b[K", at + 1)) {
    EXPECT_LT(result.out.find('\r', at) - at - 3, 60U) << "wider than the terminal";
  }
}

TEST_F(BackupOutput, Progress_Is_Not_Shown_On_A_Terminal_When_Unwanted) {
  EXPECT_EQ(run_on_pty(arguments({"--progress", "never"})).out.find('%'), std::string::npos);
  EXPECT_EQ(run_on_pty(arguments({"-inc", "0", "--quiet"})).out, "");
}

TEST_F(BackupOutput, Progress_On_A_Pipe_Comes_Only_When_Asked_For_And_Never_On_Stdout) {
  const ProgramResult result = backup({"--progress", "always"});
  EXPECT_EQ(lines_of(result.out).size(), 1U);
  EXPECT_NE(result.err.find("100%"), std::string::npos) << result.err;
  EXPECT_EQ(result.err.find('\x1b'), std::string::npos);
}

TEST_F(BackupOutput, Json_With_Progress_Never_Is_The_Summary_Alone) {
  EXPECT_EQ(json_lines_of(backup({"--json", "--progress=never"}).out).size(), 1U);
}

TEST_F(BackupOutput, Errors_Are_Colored_On_A_Terminal_Unless_NO_COLOR_Is_Set) {
  ASSERT_EQ(backup().exit_code, 0);
  PtyOptions options;
  options.run.environment = {{"TERM", "xterm"}, {"NO_COLOR", ""}};
  EXPECT_NE(run_on_pty(arguments(), options).out.find("\x1b[31merror: \x1b[0m"), std::string::npos);
  options.run.environment["NO_COLOR"] = "1";
  const ProgramResult plain = run_on_pty(arguments(), options);
  EXPECT_EQ(plain.exit_code, 1);
  EXPECT_EQ(plain.out.find('\x1b'), std::string::npos) << plain.out;
  EXPECT_NE(plain.out.find("qmpbackup: error: "), std::string::npos);
}

TEST_F(BackupOutput, Verbose_Shows_Every_Message_Both_Ways_On_Stderr_Alone) {
  const ProgramResult result = backup({"-v"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(lines_of(result.out).size(), 1U) << result.out;
  std::size_t sent = 0;
  std::size_t received = 0;
  for (const std::string& line : lines_of(result.err)) {
    ASSERT_TRUE(line.starts_with("-> {") || line.starts_with("<- {")) << line;
    EXPECT_TRUE(json::accept(line.substr(3))) << line;
    ++(line.starts_with("->") ? sent : received);
  }
  EXPECT_GT(sent, 10U);
  EXPECT_GE(received, sent);
  EXPECT_NE(result.err.find("<- {\"QMP\""), std::string::npos);
  EXPECT_EQ(backup({"-v=false", "-inc", "0"}).err, "");
}

TEST_F(BackupOutput, Dry_Run_Prints_The_Commands_And_Changes_Nothing) {
  for (const int level : {-1, 0}) {
    const json before = world();
    const ProgramResult dry = backup({"--dry-run", "-v", "-inc", std::to_string(level)});
    EXPECT_EQ(dry.exit_code, 0) << dry.err;
    EXPECT_EQ(world(), before);
    std::vector<std::string> names;
    for (const std::string& line : lines_of(dry.out)) {
      const json command = json::parse(line, nullptr, false);
      ASSERT_TRUE(command.is_object()) << line;
      names.push_back(command.at("execute"));
    }
    for (const char* name : {"add-fd", "blockdev-add", "transaction", "blockdev-reopen", "job-dismiss"}) {
      EXPECT_NE(std::find(names.begin(), names.end(), name), names.end()) << name;
    }
    for (const std::string& line : lines_of(dry.err)) {
      const bool harmless = !line.starts_with("->") || line.find("\"execute\":\"query-") != std::string::npos ||
                            line.find("\"execute\":\"qmp_capabilities\"") != std::string::npos ||
                            line.find("\"execute\":\"x-debug-query-block-graph\"") != std::string::npos;
      EXPECT_TRUE(harmless) << line;
    }
    ASSERT_EQ(backup({"-inc", std::to_string(level)}).exit_code, 0);
  }
}

TEST_F(BackupOutput, Dry_Run_As_Json_Is_Plan_Lines_And_A_Summary) {
  const auto lines = json_lines_of(backup({"--dry-run", "--json"}).out);
  ASSERT_GT(lines.size(), 5U);
  for (std::size_t i = 0; i + 1 < lines.size(); ++i) {
    EXPECT_EQ(lines[i].at("message_type"), "plan");
    EXPECT_TRUE(lines[i].at("command").contains("execute"));
  }
  EXPECT_EQ(lines.back().at("message_type"), "summary");
  EXPECT_EQ(lines.back().at("dry_run"), true);
}

TEST_F(BackupOutput, Dry_Run_Says_And_Exits_What_The_Run_Would) {
  expect_refusal(backup({"--dry-run", "-inc", "0"}), 3, "there is no full backup");
  ASSERT_EQ(backup().exit_code, 0);
  expect_refusal(backup({"--dry-run"}), 1, "exists already");
}

struct Refused {
  std::vector<std::string> arguments;
  int exit_code;
  std::string words;
};

TEST_F(BackupOutput, Situations_Have_Their_Exit_Codes_And_Change_Nothing) {
  const std::string socket = vm_->socket();
  ASSERT_EQ(backup().exit_code, 0);
  const json before = world();
  for (const Refused& refused : {
           Refused{
               {"-device", "nobody", "-backupFile", base() + "2"}, 1, "drive0 (" + path("disk.qcow2") + ", 8.0 MiB)"},
           Refused{{"-device", "drive0", "-backupFile", base()}, 1, "nothing is overwritten"},
           Refused{{"-device", "drive0", "-backupFile", base(), "-inc", "1"}, 1, "-inc 0"},
           Refused{{"-device", "drive0", "-backupFile", base() + "2", "-inc", "0"}, 3, "-inc auto"},
           Refused{{"-device", "nobody", "-cleanBitmap"}, 1, "drive0 ("},
       }) {
    std::vector<std::string> argv = tool("-socket", socket);
    argv.insert(argv.end(), refused.arguments.begin(), refused.arguments.end());
    expect_refusal(run_program(argv), refused.exit_code, refused.words);
    EXPECT_EQ(world(), before) << refused.words;
  }
}

TEST_F(BackupOutput, A_Hint_Can_Be_Typed_As_It_Stands) {
  std::vector<std::string> argv =
      tool("-socket", vm_->socket().string(), "-backupFile", base() + " it's", "-device", "drive0", "-inc", "4");
  const std::string error = run_program(argv).err;
  const std::size_t at = error.find("qmpbackup -socket");
  ASSERT_NE(at, std::string::npos) << error;
  const std::string command = tool_binary() + error.substr(at + std::string("qmpbackup").size());
  EXPECT_EQ(run_program({"/bin/sh", "-c", command}).exit_code, 0) << command;
  EXPECT_TRUE(std::filesystem::exists(base() + " it's.full.qcow2"));
}

TEST_F(BackupOutput, A_Manifest_Of_A_Newer_Program_Is_Refused_Before_Anything_Is_Changed) {
  ASSERT_EQ(backup().exit_code, 0);
  json manifest = json::parse(read_file(base() + ".chain.json"));
  manifest["format"] = 2;
  write_file(base() + ".chain.json", manifest.dump());
  const json before = world();
  for (const char* level : {"-1", "0", "auto"}) {
    expect_refusal(backup({"-inc", level}), 1, "format 2");
    EXPECT_EQ(world(), before) << level;
  }
}

TEST_F(BackupOutput, A_New_Full_By_Auto_Warns_On_Stderr_And_Exits_0_With_Its_Reason) {
  ASSERT_EQ(backup().exit_code, 0);
  const std::string bitmap = vm_->our_bitmaps("drive0").at(0);
  vm_->control().execute("block-dirty-bitmap-remove", {{"node", vm_->node_of("drive0")}, {"name", bitmap}});
  expect_refusal(backup({"-inc", "0"}), 3, "no bitmap for level full");
  const ProgramResult result = backup({"-inc", "auto", "--json"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_TRUE(result.err.starts_with("qmpbackup: warning: drive0: taking a new full: ")) << result.err;
  const json summary = json_lines_of(result.out).back();
  EXPECT_EQ(summary.at("warnings").size(), 1U);
  EXPECT_NE(summary.at("disks")[0].at("reason").get<std::string>().find("no bitmap"), std::string::npos);
}

TEST_F(BackupOutput, Clean_Bitmap_Says_How_Many_And_Touches_No_Others) {
  ASSERT_EQ(backup().exit_code, 0);
  vm_->control().execute("block-dirty-bitmap-add", {{"node", vm_->node_of("drive0")}, {"name", "mine"}});
  const ProgramResult result =
      run_program(tool("-socket", vm_->socket().string(), "-deviceToBackup", "drive0", "-cleanBitmap"));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(result.out.starts_with("drive0: removed 1 bitmap;")) << result.out;
  ASSERT_EQ(vm_->bitmaps("drive0").size(), 1U);
  EXPECT_EQ(vm_->bitmaps("drive0")[0].at("name"), "mine");
  const auto lines = json_lines_of(
      run_program(tool("-socket", vm_->socket().string(), "-device", "drive0", "-cleanBitmap", "--json")).out);
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_TRUE(lines[0].at("removed").empty());
}

TEST_F(BackupOutput, Ctrl_C_On_A_Terminal_Exits_130_And_Leaves_Nothing) {
  const json before = world();
  PtyOptions options;
  bool typed = false;
  options.type_when = [&](const std::string& seen) -> std::string {
    if (typed || seen.find('%') == std::string::npos) {
      return "";
    }
    typed = true;
    return "\x03";
  };
  const ProgramResult result = run_on_pty(arguments({"--speed-limit", "64K", "--compress", "none"}), options);
  EXPECT_EQ(result.exit_code, 130) << result.out;
  EXPECT_NE(result.out.find("ended by signal 2; the backup was cancelled, the chain is as it was"), std::string::npos)
      << result.out;
  EXPECT_TRUE(vm_->our_leftovers(QemuVm::Fdsets::Ignore).empty());
  EXPECT_TRUE(vm_->our_bitmaps("drive0").empty());
  EXPECT_EQ(backup_files(), std::vector<std::string>{});
  ASSERT_EQ(backup().exit_code, 0) << "the next run needs no help";
}

}  // namespace
}  // namespace qmpbackup::test
