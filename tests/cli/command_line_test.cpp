// Wrong command lines and situations that need no QEMU; help and version.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <sstream>

#include "cli/cli_fixture.hpp"

namespace qmpbackup::test {
namespace {

struct WrongLine {
  std::vector<std::string> arguments;
  std::string words;  // in the message
};

std::vector<std::string> good_and(std::vector<std::string> more) {
  std::vector<std::string> line{"-socket", "{}/none.sock", "-backupFile", "{}/b", "-deviceToBackup", "drive0"};
  line.insert(line.end(), more.begin(), more.end());
  return line;
}

const WrongLine kWrongLines[] = {
    {{}, "-socket is missing"},
    {{"-backupFile", "{}/b", "-deviceToBackup", "drive0"}, "-socket is missing"},
    {{"-socket", "{}/s", "-deviceToBackup", "drive0"}, "-backupFile is missing"},
    {{"-socket", "{}/s", "-backupFile", "{}/b"}, "-deviceToBackup is missing"},
    {{"-socket", "{}/s", "-cleanBitmap"}, "-deviceToBackup is missing"},
    {{"-socket"}, "-socket needs a value"},
    {{"-socket", "", "-backupFile", "{}/b", "-device", "d"}, "-socket is empty"},
    {{"-socket=", "-backupFile", "{}/b", "-device", "d"}, "-socket is empty"},
    {{"-socket", "tcp:nowhere", "-backupFile", "{}/b", "-device", "d"}, "tcp:HOST:PORT"},
    {{"-socket", "unix:", "-backupFile", "{}/b", "-device", "d"}, "-socket is empty"},
    {{"-socket", "/" + std::string(200, 's'), "-backupFile", "{}/b", "-device", "d"}, "at most 107"},
    {{"-socket", "{}/s", "-backupFile", "{}/", "-device", "d"}, "names no file"},
    {{"-socket", "{}/s", "-backupFile", "\xff", "-device", "d"}, "UTF-8"},
    {{"-socket", "{}/s", "-backupFile", std::string(250, 'b'), "-device", "d"}, "250 bytes"},
    {good_and({"-backupFile"}), "-backupFile needs a value"},
    {good_and({"-inc"}), "-inc needs a value"},
    {good_and({"-inc", ""}), "-inc is empty"},
    {good_and({"-inc", "-2"}), "-inc takes -1 for a full"},
    {good_and({"-inc=-2"}), "'-2'"},
    {good_and({"-inc", "x"}), "'x'"},
    {good_and({"-inc", "1.5"}), "'1.5'"},
    {good_and({"-inc", "01x"}), "'01x'"},
    {good_and({"-inc", "99999999999"}), "'99999999999'"},
    {good_and({"-inc", "Auto"}), "'Auto'"},
    {good_and({"-device", "drive1"}), "two devices"},
    {good_and({"-deviceToBackup", "drive1"}), "-deviceToBackup is there twice, with drive0 and drive1"},
    {good_and({"-backupFile", "{}/c"}), "-backupFile is there twice"},
    {good_and({"-inc", "0", "-inc", "0", "--inc=1"}), "-inc is there twice, with 0 and 1"},
    {good_and({"-cleanBitmap", "-inc", "auto"}), "-cleanBitmap takes no backup"},
    {good_and({"-v=maybe"}), "true or false"},
    {good_and({"-v", "false"}), "'false'"},
    {good_and({"--bogus"}), "--bogus"},
    {good_and({"-bogus"}), "-bogus"},
    {good_and({"-x"}), "-x"},
    {good_and({"stray"}), "'stray'"},
    {good_and({"--compress", "gzip"}), "zstd, zlib, none"},
    {good_and({"--compress", ""}), "--compress is empty"},
    {good_and({"--compress="}), "--compress"},
    {good_and({"--cluster-size", ""}), "--cluster-size is empty"},
    {good_and({"--progress", ""}), "--progress is empty"},
    {good_and({"--compress"}), "--compress"},
    {good_and({"--progress", "sometimes"}), "auto, always, never"},
    {good_and({"--speed-limit", "fast"}), "'fast'"},
    {good_and({"--speed-limit", "0"}), "'0'"},
    {good_and({"--speed-limit", "-5M"}), "-5M"},
    {good_and({"--speed-limit", "99999999999999999999"}), "--speed-limit"},
    {good_and({"--cluster-size", "65537"}), "power of two"},
    {good_and({"--cluster-size", "256"}), "power of two"},
    {good_and({"--cluster-size", "4M"}), "power of two"},
    {good_and({"--connect-timeout", "0"}), "seconds"},
    {good_and({"--connect-timeout", "5s"}), "'5s'"},
    {good_and({"--stall-timeout", "never"}), "'never'"},
    {good_and({"--json=perhaps"}), "perhaps"},
};

class WrongLines : public CliTest, public testing::WithParamInterface<WrongLine> {};

TEST_P(WrongLines, Exit_2_With_One_Line_And_Change_Nothing) {
  expect_refusal(run(GetParam().arguments), 2, GetParam().words);
  EXPECT_TRUE(files().empty());
}

TEST_P(WrongLines, Are_One_Line_Of_JSON_When_Asked) {
  std::vector<std::string> arguments{"--json"};
  arguments.insert(arguments.end(), GetParam().arguments.begin(), GetParam().arguments.end());
  const ProgramResult result = run(arguments);
  EXPECT_EQ(result.exit_code, 2);
  const auto lines = json_lines_of(result.out);
  ASSERT_EQ(lines.size(), 1U) << result.out;
  EXPECT_EQ(lines[0].at("message_type"), "error");
  EXPECT_EQ(lines[0].at("code"), 2);
  EXPECT_TRUE(lines[0].at("message").is_string());
  EXPECT_TRUE(lines[0].at("hint").is_string());
  EXPECT_EQ(lines_of(result.err).size(), 1U) << result.err;
}

INSTANTIATE_TEST_SUITE_P(Each, WrongLines, testing::ValuesIn(kWrongLines));

TEST_F(CliTest, Wrong_Command_Lines_Say_Where_Help_Is) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{}, good_and({"--bogus"}), good_and({"-bogus"}), good_and({"-inc", "x"}),
        good_and({"-inc", "-2"}), good_and({"-inc"}), good_and({"stray"}), good_and({"-v=maybe"})}) {
    const ProgramResult result = run(arguments);
    EXPECT_NE(result.err.find("--help"), std::string::npos) << result.err;
  }
}

TEST_F(CliTest, Help_Is_On_Stdout_And_Says_What_A_User_Looks_For) {
  for (const char* flag : {"--help", "-h"}) {
    const ProgramResult result = run({flag});
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_EQ(result.err, "");
    for (const char* words : {"-socket", "-backupFile", "-deviceToBackup", "-inc", "-cleanBitmap", "--json",
                              "--dry-run", "--compress", "--adopt", "Exit codes:", "3  this chain needs a new full",
                              "5  another run holds this chain", "Examples:", "-inc auto", "qemu-img convert"}) {
      EXPECT_NE(result.out.find(words), std::string::npos) << words;
    }
    EXPECT_EQ(result.out.find("--backupFile"), std::string::npos) << "shown as its users know it";
  }
}

TEST_F(CliTest, Help_Fits_A_Terminal) {
  for (const std::string command : {"", "list", "verify", "restore", "merge", "info"}) {
    std::istringstream help(
        run(command.empty() ? std::vector<std::string>{"-h"} : std::vector{command, std::string("-h")}).out);
    for (std::string line; std::getline(help, line);) {
      EXPECT_LE(line.size(), 80) << line;
    }
  }
}

TEST_F(CliTest, Help_Comes_As_The_Go_Tool_Gives_It) {
  EXPECT_EQ(run({"-help"}).exit_code, 0);
}

TEST_F(CliTest, Help_Wins_Over_What_Is_Missing) {
  EXPECT_EQ(run({"-socket", "{}/s", "--help"}).exit_code, 0);
}

TEST_F(CliTest, Version_Is_One_Line) {
  const ProgramResult result = run({"--version"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_TRUE(result.out.starts_with("qmpbackup "));
  EXPECT_EQ(lines_of(result.out).size(), 1U);
  EXPECT_EQ(result.err, "");
}

TEST_F(CliTest, A_Line_Break_In_A_Name_Cannot_Forge_A_Second_Line) {
  expect_refusal(run({"-socket", "{}/a\nqmpbackup: fine\x1b[2J", "-backupFile", "{}/b", "-device", "d"}), 4,
                 "a\\x0aqmpbackup: fine\\x1b[2J");
}

TEST_F(CliTest, A_Missing_Folder_Is_Refused_Before_Connecting) {
  expect_refusal(run({"-socket", "{}/none.sock", "-backupFile", "{}/no folder/b", "-device", "d"}), 1,
                 "there is no folder " + path("no folder"));
  EXPECT_TRUE(files().empty());
}

TEST_F(CliTest, Nobody_Listening_Exits_4) {
  expect_refusal(backup("{}/none.sock"), 4, path("none.sock"));
  expect_refusal(backup("unix:{}/none.sock"), 4, "does the VM run");
  write_file(path("file"), "no socket");
  expect_refusal(backup("{}/file"), 4, path("file"));
  expect_refusal(backup("{}"), 4, folder_.path().string());
  { const UniqueFd gone = listen_unix(path("dead.sock")); }
  expect_refusal(backup("{}/dead.sock"), 4, "nothing listens there");
  expect_refusal(backup("tcp:127.0.0.1:1"), 4, "tcp:127.0.0.1:1");
  for (const char* port : {"no-such-port", "0", "65536", "1x"}) {
    expect_refusal(backup(std::string("tcp:127.0.0.1:") + port), 2, port);
  }
  expect_refusal(run({"-socket", "{}/none.sock", "-device", "d", "-cleanBitmap"}), 4, "none.sock");
}

TEST_F(CliTest, Nobody_Listening_Is_JSON_When_Asked) {
  const auto lines = json_lines_of(backup("{}/none.sock", {"--json"}).out);
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_EQ(lines[0].at("message_type"), "error");
  EXPECT_EQ(lines[0].at("code"), 4);
  EXPECT_FALSE(lines[0].at("hint").get<std::string>().empty());
}

TEST_F(CliTest, Another_Run_Holding_The_Chain_Exits_5_At_Once) {
  const UniqueFd lock(::open(path("drive0.lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(::flock(lock.get(), LOCK_EX), 0);
  expect_refusal(backup("{}/none.sock"), 5, path("drive0.lock"));
  expect_refusal(run({"-socket", "{}/none.sock", "-device", "d", "-backupFile", "{}/drive0", "-cleanBitmap"}), 5,
                 path("drive0.lock"));
  expect_refusal(backup("{}/none.sock", {"--dry-run"}), 4, "none.sock");  // it only looks
  EXPECT_EQ(json_lines_of(backup("{}/none.sock", {"--json"}).out).at(0).at("code"), 5);
  ASSERT_EQ(::flock(lock.get(), LOCK_UN), 0);
  expect_refusal(backup("{}/none.sock"), 4, "none.sock");
}

TEST_F(CliTest, Options_That_A_Subcommand_Does_Not_Have_Are_Refused_Before_It_Too) {
  for (const std::vector<std::string>& foreign :
       std::vector<std::vector<std::string>>{{"-cleanBitmap"}, {"-socket", "{}/s"}, {"--dry-run"}, {"-inc", "3"}}) {
    std::vector<std::string> arguments = foreign;
    arguments.insert(arguments.end(), {"list", "-backupFile", "{}/drive0"});
    expect_refusal(run(arguments), 2, "list takes no -");
  }
  expect_refusal(run({"-backupFile", "{}/drive0", "list"}), 1, "there is no chain");  // as good as behind it
}

TEST_F(CliTest, A_Usage_Error_Comes_As_Json_However_It_Was_Asked_For) {
  for (const char* json : {"--json", "--json=true", "--json=1"}) {
    EXPECT_EQ(json_lines_of(run({json, "-inc", "x", "-socket", "s"}).out).size(), 1U) << json;
  }
  EXPECT_EQ(run({"--json=false", "-inc", "x", "-socket", "s"}).out, "");
}

TEST_F(CliTest, A_Result_That_Cannot_Be_Written_Is_An_Error_And_A_Reader_That_Left_Is_None) {
  const auto shell = [&](const std::string& script) {
    return run_program({"/bin/sh", "-c", script, tool_binary(), path("drive0")});
  };
  ASSERT_EQ(run_program({"qemu-img", "create", "-q", "-f", "qcow2", path("drive0.full.qcow2"), "1M"}).exit_code, 0);
  ASSERT_EQ(run_program({"qemu-io", "-c", "write 0 64k", path("drive0.full.qcow2")}).exit_code, 0);
  const ProgramResult full = shell(R"("$0" list -backupFile "$1" >/dev/full)");
  EXPECT_EQ(full.exit_code, 1) << full.err;
  EXPECT_NE(full.err.find("standard output"), std::string::npos) << full.err;
  EXPECT_EQ(shell(R"("$0" --help >/dev/full)").exit_code, 1);
  const ProgramResult left = shell(R"({ sleep 0.2; "$0" list -backupFile "$1"; echo "exit $?" >&2; } | true)");
  EXPECT_NE(left.err.find("exit 0"), std::string::npos) << left.err;
}

TEST_F(CliTest, A_Closed_Stdout_Does_Not_Hide_The_Exit_Code) {
  const ProgramResult result =
      run_program({"/bin/sh", "-c", std::string("exec \"$0\" --json -inc x >&-"), tool_binary()});
  EXPECT_EQ(result.exit_code, 2);
}

}  // namespace
}  // namespace qmpbackup::test
