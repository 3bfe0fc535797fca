// list, verify and restore on chains of the Go tool's kind: files made by qemu-img, without QEMU and manifest.
#include "cli/cli_fixture.hpp"
#include "support/requirements.hpp"

namespace qmpbackup::test {
namespace {

constexpr std::uint64_t kSize = 1024 * 1024 + 512;

class ChainCommands : public CliTest {
 protected:
  void SetUp() override {
    QMPBACKUP_REQUIRE_PROGRAM("qemu-img");
    QMPBACKUP_REQUIRE_PROGRAM("qemu-io");
    write_file(path("zeros.raw"), std::string(kSize, '\0'));
    run_checked(
        {"qemu-img", "convert", "-S", "0", "-f", "raw", "-O", "qcow2", path("zeros.raw"), path("d.full.qcow2")});
    pattern("d.full.qcow2", 1);
    add_level("d.inc0.qcow2", "d.full.qcow2", 2);
    add_level("d.inc1.qcow2", "d.inc0.qcow2", 3);
  }

  void add_level(const std::string& name, const std::string& backing, int byte) const {
    run_checked({"qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing, path(name)});
    pattern(name, byte);
  }
  void pattern(const std::string& name, int byte) const {
    run_checked({"qemu-io", "-c", "write -P " + std::to_string(byte) + " 0 64k", path(name)});
  }

  ProgramResult on_chain(const std::string& command, std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments{command, "-backupFile", "{}/d"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(std::move(arguments));
  }
};

TEST_F(ChainCommands, Refuse_What_Is_Missing_Or_Unknown_With_2) {
  for (const char* command : {"list", "verify", "restore"}) {
    expect_refusal(run({command}), 2, "-backupFile is missing");
    expect_refusal(run({command, "--bogus"}), 2, "--bogus");
    expect_refusal(run({command, "stray"}), 2, "stray");
    expect_refusal(run({command, "-backupFile"}), 2, "-backupFile needs a value");
    EXPECT_EQ(run({command, "--help"}).exit_code, 0);
    EXPECT_NE(run({command, "--help"}).out.find("-backupFile"), std::string::npos);
  }
  expect_refusal(run({"info"}), 2, "-socket is missing");
  expect_refusal(run({"list", "verify"}), 2, "verify");
  expect_refusal(on_chain("restore"), 2, "--output is missing");
  expect_refusal(on_chain("restore", {"--output", "{}/o", "--format", "vmdk"}), 2, "qcow2, raw");
  expect_refusal(on_chain("restore", {"--output", "{}/o", "-inc", "x"}), 2, "'x'");
  expect_refusal(on_chain("restore", {"--output", "{}/o", "--at", "soon"}), 2, "'soon'");
  expect_refusal(on_chain("restore", {"--output", "{}/o", "-inc", "0", "--at", "2026-11-20"}), 2, "--at");
  expect_refusal(on_chain("restore", {"--output", "{}/o", "--overlay", "--format", "raw"}), 2, "--overlay");
  expect_refusal(on_chain("restore", {"--output", "{}/o", "--overlay", "--force"}), 2, "--force");
  expect_refusal(on_chain("restore", {"--output", "{}/o", "--overlay", "--no-checksum"}), 2, "--no-checksum");
  expect_refusal(on_chain("restore", {"--export", "{}/s", "--no-checksum"}), 2, "--no-checksum");
  expect_refusal(on_chain("restore", {"--output", "{}/o", "--export", "{}/s"}), 2, "--output and --export");
  expect_refusal(on_chain("restore", {"--export", "{}/s", "--overlay"}), 2, "--overlay does not go with it");
  expect_refusal(on_chain("restore", {"--export", "{}/s", "--force"}), 2, "--force does not go with it");
  expect_refusal(on_chain("restore", {"--export", "{}/s", "--format", "qcow2"}), 2, "--format does not go with it");
  expect_refusal(on_chain("restore", {"--output", "{}/o", "--format", ""}), 2, "--format is empty");
  expect_refusal(on_chain("restore", {"--output", ""}), 2, "--output is empty");
}

TEST_F(ChainCommands, Say_That_There_Is_No_Chain_And_Make_None) {
  const auto before = files();
  for (const char* command : {"list", "verify"}) {
    expect_refusal(run({command, "-backupFile", "{}/none"}), 1, "there is no chain at " + path("none"));
  }
  expect_refusal(run({"restore", "-backupFile", "{}/none", "--output", "{}/o"}), 1, "there is no chain");
  expect_refusal(run({"list", "-backupFile", "{}/no folder/d"}), 1, "there is no chain");
  EXPECT_EQ(files(), before);
}

TEST_F(ChainCommands, Info_Needs_A_QEMU) {
  expect_refusal(run({"info", "-socket", "{}/none.sock"}), 4, "none.sock");
}

TEST_F(ChainCommands, List_Shows_A_Chain_Without_Manifest_For_People_And_Scripts) {
  const ProgramResult table = on_chain("list");
  EXPECT_EQ(table.exit_code, 0) << table.err;
  EXPECT_EQ(table.err, "");
  for (const char* words : {"full", "inc0", "inc1", "manifest is missing", "3 levels"}) {
    EXPECT_NE(table.out.find(words), std::string::npos) << words;
  }
  const auto lines = json_lines_of(on_chain("list", {"--json"}).out);
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_EQ(lines[0].at("message_type"), "summary");
  EXPECT_EQ(lines[0].at("base"), path("d"));
  ASSERT_EQ(lines[0].at("levels").size(), 3U);
  EXPECT_EQ(lines[0].at("levels")[0].at("level"), -1);
  EXPECT_EQ(lines[0].at("levels")[2].at("virtual_size"), kSize);
  EXPECT_EQ(json_lines_of(run({"list", "-backupFile", "{}", "--json"}).out).back().at("base"), path("d"));
}

TEST_F(ChainCommands, Verify_Passes_A_Good_Chain_And_Exits_6_For_Damage) {
  const ProgramResult good = on_chain("verify", {"--deep"});
  EXPECT_EQ(good.exit_code, 0) << good.err << good.out;
  EXPECT_NE(good.out.find("restores: full to inc1"), std::string::npos) << good.out;
  std::filesystem::remove(path("d.inc0.qcow2"));
  const ProgramResult gap = on_chain("verify");
  EXPECT_EQ(gap.exit_code, 6) << gap.out;
  EXPECT_NE(gap.err.find("qmpbackup: error: "), std::string::npos);
  EXPECT_NE(gap.err.find("newest level that restores is full"), std::string::npos) << gap.err;
  const auto lines = json_lines_of(on_chain("verify", {"--json"}).out);
  EXPECT_EQ(lines.back().at("message_type"), "error");
  EXPECT_EQ(lines.back().at("code"), 6);
}

// Nothing is known of the levels then: a hint that costs the chain its bitmaps would be wrong.
TEST_F(ChainCommands, Verify_Without_Qemu_Img_Finds_No_Damage) {
  const ProgramResult result =
      run_program({tool_binary(), "verify", "-backupFile", path("d")}, {.environment = {{"PATH", "/nowhere"}}});
  EXPECT_EQ(result.exit_code, 1) << result.out;
  EXPECT_EQ((result.out + result.err).find("DAMAGED"), std::string::npos) << result.out;
  EXPECT_NE(result.err.find("install it"), std::string::npos) << result.err;
}

// A limit of open files is no damage.
TEST_F(ChainCommands, Long_Chain_Is_Opened_Whole_Or_Not_At_All) {
  for (int level = 2; level < 60; ++level) {
    run_checked({"qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-u", "-b",
                 fmt::format("d.inc{}.qcow2", level - 1), path(fmt::format("d.inc{}.qcow2", level)),
                 std::to_string(kSize)});
  }
  for (const char* command : {"verify --deep", "restore --output \"$1.out\""}) {
    const auto with = [&](const std::string& limit) {
      const std::string script = fmt::format("ulimit {} 40; exec \"$0\" {} -backupFile \"$1\"", limit, command);
      return run_program({"/bin/sh", "-c", script, tool_binary(), path("d")});
    };
    const ProgramResult refused = with("-n");
    EXPECT_EQ(refused.exit_code, 1) << refused.err;
    EXPECT_NE(refused.err.find("files must be open at the same time, and the limit is 40"), std::string::npos)
        << refused.err;
    EXPECT_EQ(with("-Sn").exit_code, 0) << "the soft limit is no obstacle";
  }
}

TEST_F(ChainCommands, Verify_Exits_6_For_A_Truncated_Level_And_A_Foreign_Backing_File) {
  std::filesystem::resize_file(path("d.inc1.qcow2"), 4096);
  EXPECT_EQ(on_chain("verify").exit_code, 6);
  std::filesystem::remove(path("d.inc1.qcow2"));
  run_checked({"qemu-img", "rebase", "-u", "-F", "qcow2", "-b", path("zeros.raw"), path("d.inc0.qcow2")});
  EXPECT_EQ(on_chain("verify").exit_code, 6);
}

TEST_F(ChainCommands, Verify_Exits_6_For_A_Damaged_Manifest) {
  write_file(path("d.chain.json"), "{\"format\": 1");
  EXPECT_EQ(on_chain("verify").exit_code, 6);
}

TEST_F(ChainCommands, Verify_Of_A_Newer_Manifest_Asks_For_The_Newer_Program_And_Not_For_A_Full) {
  write_file(path("d.chain.json"), R"({"format": 99})");
  const ProgramResult result = on_chain("verify");
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("the levels are sound"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("use the newer qmpbackup"), std::string::npos) << result.err;
  EXPECT_EQ(result.err.find("new full"), std::string::npos) << result.err;
}

TEST_F(ChainCommands, Restore_Gives_Each_Level_In_Either_Format) {
  for (const int level : {-1, 0, 1}) {
    for (const std::string format : {"qcow2", "raw"}) {
      const std::string output = path("out " + std::to_string(level) + "." + format);
      const ProgramResult result =
          on_chain("restore", {"-inc", std::to_string(level), "--output", output, "--format", format});
      ASSERT_EQ(result.exit_code, 0) << result.err;
      EXPECT_EQ(result.err, "qmpbackup: warning: " + path("d.chain.json") +
                                " is missing: a damaged byte in the data cannot be noticed\n");
      const std::string source = path(level < 0 ? "d.full.qcow2" : "d.inc" + std::to_string(level) + ".qcow2");
      run_checked({"qemu-img", "compare", "-f", "qcow2", "-F", format, source, output});
      const auto info = nlohmann::json::parse(run_checked({"qemu-img", "info", "--output=json", "-f", format, output}));
      EXPECT_EQ(info.at("virtual-size"), kSize);
      EXPECT_FALSE(info.contains("backing-filename"));
    }
  }
}

TEST_F(ChainCommands, Restore_Takes_The_Newest_Level_And_Reports_It) {
  const auto lines = json_lines_of(on_chain("restore", {"--output", "{}/o", "--json", "--progress", "never"}).out);
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_EQ(lines[0].at("command"), "restore");
  EXPECT_EQ(lines[0].at("level"), 1);
  EXPECT_EQ(lines[0].at("output"), path("o"));
}

TEST_F(ChainCommands, Restore_Overlay_Reads_The_Level_And_Writes_Beside_It) {
  const std::string level_before = read_file(path("d.inc1.qcow2"));
  ASSERT_EQ(on_chain("restore", {"--overlay", "--output", "{}/o.qcow2"}).exit_code, 0);
  run_checked({"qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", path("d.inc1.qcow2"), path("o.qcow2")});
  pattern("o.qcow2", 9);
  EXPECT_EQ(read_file(path("d.inc1.qcow2")), level_before);
}

TEST_F(ChainCommands, Restore_Overwrites_Nothing_And_Needs_A_Folder) {
  write_file(path("o"), "precious");
  expect_refusal(on_chain("restore", {"--output", "{}/o"}), 1, "nothing is overwritten");
  expect_refusal(on_chain("restore", {"--output", "{}/d.inc1.qcow2"}), 1, "nothing is overwritten");
  expect_refusal(on_chain("restore", {"--output", "{}/none/o"}), 1, "no folder");
  EXPECT_EQ(read_file(path("o")), "precious");
}

TEST_F(ChainCommands, Restore_Gives_No_File_The_Name_Of_A_Level) {
  for (const char* name : {"d.inc2.qcow2", "d.inc2.qcow2.partial"}) {
    const ProgramResult result = on_chain("restore", {"--output", path(name)});
    EXPECT_EQ(result.exit_code, 1) << result.out;
    EXPECT_NE(result.err.find("is the name of a level of the chain"), std::string::npos) << result.err;
  }
}

TEST_F(ChainCommands, Restore_Refuses_A_Level_That_Is_Not_There_Or_Too_New) {
  expect_refusal(on_chain("restore", {"--output", "{}/o", "-inc", "2"}), 1, "no level inc2");
  expect_refusal(on_chain("restore", {"--output", "{}/o", "--at", "1999-01-01"}), 1, "the oldest is the full");
  EXPECT_FALSE(std::filesystem::exists(path("o")));
}

TEST_F(ChainCommands, Restore_Names_The_Earlier_Chain_That_Is_Old_Enough) {
  for (const char* folder : {"d.20190101T000000Z", "d.20200101T000000Z", "d.20210101T000000Z"}) {
    std::filesystem::create_directory(path(folder));
  }
  expect_refusal(on_chain("restore", {"--output", "{}/o", "--at", "2020-06-01"}), 1,
                 "an earlier chain: -backupFile " + path("d.20200101T000000Z/d"));
  const ProgramResult before_all = on_chain("restore", {"--output", "{}/o", "--at", "1999-01-01"});
  EXPECT_EQ(before_all.err.find("earlier"), std::string::npos) << before_all.err;
}

TEST_F(ChainCommands, Verify_Advises_No_Backup_Where_An_Earlier_Chain_Is_Damaged) {
  const std::string folder = path("d.20200101T000000Z");
  std::filesystem::create_directory(folder);
  std::filesystem::rename(path("d.inc0.qcow2"), folder + "/d.inc0.qcow2");
  const ProgramResult earlier = run({"verify", "-backupFile", folder + "/d"});
  EXPECT_EQ(earlier.exit_code, 6);
  EXPECT_NE(earlier.err.find("nothing is added to it any more"), std::string::npos) << earlier.err;
  EXPECT_NE(earlier.out.find("does not restore: full to inc0\n                  ? to 20"), std::string::npos)
      << earlier.out;
  const ProgramResult present = on_chain("verify");
  EXPECT_EQ(present.exit_code, 6);
  EXPECT_NE(present.err.find("for a new full: the backup command with -inc auto"), std::string::npos) << present.err;
}

// A merge was killed between its last two files, and then the manifest was lost.
TEST_F(ChainCommands, Restore_Goes_On_Past_Old_Checksums_When_Told) {
  std::string lines;
  for (const char* file : {"d.full.qcow2", "d.inc0.qcow2", "d.inc1.qcow2"}) {
    lines += std::string(64, '0') + "  " + file + "\n";
  }
  write_file(path("d.sha256"), lines);
  const ProgramResult refused = on_chain("restore", {"--output", "{}/o"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_NE(refused.err.find(path("d.sha256") + " may be older than the files: --no-checksum"), std::string::npos)
      << refused.err;
  EXPECT_EQ(on_chain("restore", {"--output", "{}/o", "--no-checksum"}).exit_code, 0);
}

TEST_F(ChainCommands, Folder_In_The_Place_Of_The_Manifest_Keeps_No_Level_From_Being_Restored) {
  std::filesystem::create_directory(path("d.chain.json"));
  const ProgramResult verify = on_chain("verify");
  EXPECT_EQ(verify.exit_code, 6);
  EXPECT_NE(verify.err.find("unreadable (it is a folder)"), std::string::npos) << verify.err;
  EXPECT_EQ(on_chain("restore", {"--output", "{}/o"}).exit_code, 0);
}

TEST_F(ChainCommands, Restore_Refuses_A_Broken_Chain_And_Names_The_Last_Good_Level) {
  std::filesystem::resize_file(path("d.inc1.qcow2"), 50);
  expect_refusal(on_chain("restore", {"--output", "{}/o"}), 1, "the newest level that is good: inc0 (-inc 0)");
  EXPECT_FALSE(std::filesystem::exists(path("o")));
  EXPECT_EQ(on_chain("restore", {"--output", "{}/o", "-inc", "0"}).exit_code, 0);
}

TEST_F(ChainCommands, Restore_Past_A_Missing_Level_Names_It_And_The_Last_Good_One) {
  std::filesystem::remove(path("d.inc0.qcow2"));
  for (const std::vector<std::string>& level : {std::vector<std::string>{}, std::vector<std::string>{"-inc", "1"}}) {
    std::vector<std::string> arguments{"--output", "{}/o"};
    arguments.insert(arguments.end(), level.begin(), level.end());
    expect_refusal(on_chain("restore", arguments), 1, "d.inc0.qcow2");
    expect_refusal(on_chain("restore", arguments), 1, "full (-inc -1)");
  }
  EXPECT_FALSE(std::filesystem::exists(path("o")));
}

TEST_F(ChainCommands, Help_Of_A_Command_Is_Its_Own) {
  for (const std::string command : {"list", "verify", "restore", "merge", "info"}) {
    const std::string help = run({command, "--help"}).out;
    EXPECT_NE(help.find("Usage: qmpbackup " + command + " [OPTIONS]"), std::string::npos) << help;
    EXPECT_NE(help.find("\n  qmpbackup " + command + " -"), std::string::npos) << "its own examples: " << help;
    EXPECT_EQ(help.find("-deviceToBackup"), std::string::npos) << help;
  }
}

TEST_F(ChainCommands, List_Prints_Nothing_When_Quiet_But_Errors) {
  const ProgramResult quiet = on_chain("list", {"--quiet"});
  EXPECT_EQ(quiet.exit_code, 0);
  EXPECT_EQ(quiet.out + quiet.err, "");
  expect_refusal(run({"list", "-backupFile", "{}/none", "--quiet"}), 1, "there is no chain");
}

TEST_F(ChainCommands, List_Says_That_Levels_Above_A_Missing_One_Are_Of_No_Use) {
  std::filesystem::remove(path("d.inc0.qcow2"));
  EXPECT_NE(on_chain("list").out.find("inc1: needs inc0"), std::string::npos) << on_chain("list").out;
  const auto summary = json_lines_of(on_chain("list", {"--json"}).out).back();
  EXPECT_EQ(summary.at("levels")[0].at("fault"), nullptr);
  EXPECT_EQ(summary.at("levels")[2].at("fault"), "needs inc0");
}

// A program of this name that says in a file that it runs, and then does nothing for long.
class WithASleeper : public ChainCommands {
 protected:
  BackgroundProgram start(const std::string& sleeper, std::vector<std::string> arguments) {
    std::filesystem::create_directory(path("bin"));
    write_file(path("bin/" + sleeper), "#!/bin/sh\n>'" + path("asleep") + "'\nexec sleep 60\n");
    std::filesystem::permissions(path("bin/" + sleeper), std::filesystem::perms{0755});
    arguments.insert(arguments.begin(), {tool_binary(), "restore", "-backupFile", path("d")});
    RunOptions options;
    options.environment["PATH"] = path("bin") + ":" + std::getenv("PATH");
    BackgroundProgram program(arguments, options);
    while (program.running() && !std::filesystem::exists(path("asleep"))) {
    }
    return program;
  }
};

TEST_F(WithASleeper, Restore_Overlay_Leaves_Nothing_After_Ctrl_C) {
  const auto before = files();
  BackgroundProgram program = start("qemu-img", {"--overlay", "--output", path("o")});
  EXPECT_FALSE(std::filesystem::exists(path("o"))) << "not before it is complete";
  program.send_signal(SIGINT);
  EXPECT_EQ(program.wait().exit_code, 130);
  std::filesystem::remove_all(path("bin"));
  std::filesystem::remove(path("asleep"));
  EXPECT_EQ(files(), before);
}

TEST_F(WithASleeper, Export_That_Is_Ended_Before_It_Is_Served_Says_So) {
  BackgroundProgram program = start("qemu-nbd", {"--json", "--export", path("s")});
  program.send_signal(SIGINT);
  const ProgramResult result = program.wait();
  EXPECT_EQ(result.exit_code, 130);
  const auto lines = json_lines_of(result.out);
  ASSERT_FALSE(lines.empty());
  EXPECT_EQ(lines.back().at("message_type"), "error");
  EXPECT_EQ(lines.back().at("code"), 130);
}

TEST_F(ChainCommands, Export_Prints_Commands_That_Work_Whatever_The_Socket_Is_Called) {
  QMPBACKUP_REQUIRE_PROGRAM("qemu-nbd");
  BackgroundProgram server(tool("restore", "-backupFile", path("d"), "--export", path("e x%25&'.sock")));
  const std::string lead = "look into it:";
  while (server.running() && server.out().find(lead) == std::string::npos) {
  }
  const std::string said = server.out();
  ASSERT_NE(said.find(lead), std::string::npos) << server.err();
  const std::string command = said.substr(said.find(lead) + lead.size());
  EXPECT_NE(run_checked({"sh", "-c", command}).find("virtual size"), std::string::npos);
  server.send_signal(SIGINT);
  EXPECT_EQ(server.wait().exit_code, 0);
  const ProgramResult refused = on_chain("restore", {"--export", "{}/" + std::string(120, 's')});
  expect_refusal(refused, 1, "qemu-nbd does not serve");
  EXPECT_EQ(refused.err.find("\\x0a"), std::string::npos) << refused.err;
}

TEST_F(ChainCommands, Names_That_QEMU_Cannot_Take_And_A_Lost_Working_Folder_Are_Said_In_Our_Words) {
  const std::string odd = path("odd\xff");
  std::filesystem::create_directory(odd);
  for (const char* name : {"d.full.qcow2", "d.inc0.qcow2", "d.inc1.qcow2"}) {
    std::filesystem::copy_file(path(name), odd + "/" + name);
  }
  RunOptions there;
  there.working_folder = odd;
  expect_refusal(run({"restore", "-backupFile", "d", "--output", "o"}, there), 1, "is not valid UTF-8");
  const ProgramResult lost =
      run_program({"sh", "-c", R"(mkdir "$2"; cd "$2"; rmdir "$2"; exec "$0" restore -backupFile "$1" --output o)",
                   tool_binary(), path("d"), path("lost")});
  expect_refusal(lost, 1, "cannot use o: No such file or directory; check that it is there");
}

TEST_F(ChainCommands, A_Moved_Chain_Restores_From_Its_New_Place) {
  std::filesystem::create_directory(path("moved"));
  for (const char* name : {"d.full.qcow2", "d.inc0.qcow2", "d.inc1.qcow2"}) {
    std::filesystem::rename(path(name), path("moved/") + name);
  }
  RunOptions from_there;
  from_there.working_folder = path("moved");
  EXPECT_EQ(run({"restore", "-backupFile", "d", "--output", "o"}, from_there).exit_code, 0);
  EXPECT_TRUE(std::filesystem::exists(path("moved/o")));
}

}  // namespace
}  // namespace qmpbackup::test
