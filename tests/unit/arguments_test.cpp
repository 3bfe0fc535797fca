// The Go tool's command line, and where a QMP monitor listens.
#include "qmpbackup/arguments.hpp"

#include <gtest/gtest.h>

#include "qmpbackup/errors.hpp"
#include "qmpbackup/qmp_client.hpp"

#include "support/program.hpp"

namespace qmpbackup {
namespace {

using Words = std::vector<std::string>;

TEST(Arguments, Take_One_Dash_Or_Two_And_A_Space_Or_An_Equals_Sign) {
  for (const Words& words :
       {Words{"-socket", "/s"}, Words{"--socket", "/s"}, Words{"-socket=/s"}, Words{"--socket=/s"}}) {
    EXPECT_EQ(rewrite_arguments(words), Words{"--socket=/s"}) << words[0];
  }
  EXPECT_EQ(rewrite_arguments({"-backupFile", "/b", "-deviceToBackup=d", "--device", "e"}),
            (Words{"--backupFile=/b", "--deviceToBackup=d", "--device=e"}));
}

TEST(Arguments, Take_Values_That_Look_Like_Flags) {
  EXPECT_EQ(rewrite_arguments({"-inc", "-1"}), Words{"--inc=-1"});
  EXPECT_EQ(rewrite_arguments({"-inc=-1"}), Words{"--inc=-1"});
  EXPECT_EQ(rewrite_arguments({"-backupFile", "-x"}), Words{"--backupFile=-x"});
  EXPECT_EQ(rewrite_arguments({"-backupFile=-v"}), Words{"--backupFile=-v"});
  EXPECT_EQ(rewrite_arguments({"-backupFile=--json", "-inc", "0"}), (Words{"--backupFile=--json", "--inc=0"}));
  EXPECT_EQ(rewrite_arguments({"-backupFile=a=b=c"}), Words{"--backupFile=a=b=c"});
  EXPECT_EQ(rewrite_arguments({"-backupFile", "a b '\"%"}), Words{"--backupFile=a b '\"%"});
}

// As when a variable is empty: `-backupFile $BASE --quiet`.
TEST(Arguments, Take_No_Option_For_The_Value_Of_A_Flag_Before_It) {
  for (const char* option : {"--quiet", "--json", "-v", "-inc", "-deviceToBackup", "-inc=0", "--compress=none"}) {
    EXPECT_THROW(rewrite_arguments({"-backupFile", option}), UsageError) << option;
    EXPECT_EQ(rewrite_arguments({std::string("-backupFile=") + option}), Words{std::string("--backupFile=") + option});
  }
}

TEST(Arguments, Take_A_Bool_In_Every_Spelling_That_Go_Takes) {
  for (const char* yes : {"-v", "--v", "-v=true", "-v=1", "-v=t", "-v=T", "-v=TRUE", "-v=True"}) {
    EXPECT_EQ(rewrite_arguments({yes}), Words{"--v=true"}) << yes;
  }
  for (const char* no : {"-v=false", "--v=false", "-v=0", "-v=f", "-v=F", "-v=FALSE", "-v=False"}) {
    EXPECT_EQ(rewrite_arguments({no}), Words{"--v=false"}) << no;
  }
  for (const char* wrong : {"-v=", "-v=yes", "-v=2", "-v=tRUE", "-cleanBitmap=no"}) {
    EXPECT_THROW(rewrite_arguments({wrong}), UsageError) << wrong;
  }
  EXPECT_EQ(rewrite_arguments({"-cleanBitmap", "-v"}), (Words{"--cleanBitmap=true", "--v=true"}));
}

TEST(Arguments, A_Bool_Takes_No_Value_After_A_Space) {
  EXPECT_EQ(rewrite_arguments({"-v", "false"}), (Words{"--v=true", "false"}));
}

TEST(Arguments, A_Missing_Or_Empty_Value_Is_Refused_By_Name) {
  for (const char* flag : {"socket", "backupFile", "deviceToBackup", "device", "inc"}) {
    for (const Words& words : {Words{std::string("-") + flag}, Words{std::string("--") + flag},
                               Words{std::string("-") + flag + "="}, Words{std::string("-") + flag, ""}}) {
      try {
        rewrite_arguments(words);
        ADD_FAILURE() << words[0];
      } catch (const UsageError& error) {
        EXPECT_NE(std::string(error.what()).find(std::string("-") + flag), std::string::npos) << error.what();
      }
    }
  }
}

TEST(Arguments, New_Options_And_Everything_Else_Stay_As_They_Are) {
  const Words words{"--json", "--compress", "zlib", "--speed-limit=5M", "list", "-h", "--", "socket", "inc", "", "-"};
  EXPECT_EQ(rewrite_arguments(words), words);
  EXPECT_TRUE(rewrite_arguments({}).empty());
}

TEST(Arguments, Unknown_Single_Dash_Names_Are_Refused_And_Not_Taken_Apart) {
  for (const char* word : {"-json", "-vv", "-sockett", "-Socket", "-backupfile", "-incremental", "-soc=x"}) {
    EXPECT_THROW(rewrite_arguments({word}), UsageError) << word;
  }
}

TEST(ShellQuoted, Leaves_Plain_Words_And_Quotes_The_Rest) {
  EXPECT_EQ(shell_quoted("/backup/drive0.full"), "/backup/drive0.full");
  EXPECT_EQ(shell_quoted("unix:/run/a_b-c,d+e@f%g"), "unix:/run/a_b-c,d+e@f%g");
  EXPECT_EQ(shell_quoted(""), "''");
  EXPECT_EQ(shell_quoted("a b"), "'a b'");
  EXPECT_EQ(shell_quoted("it's"), R"('it'\''s')");
  EXPECT_EQ(shell_quoted("$HOME"), "'$HOME'");
}

TEST(ShellQuoted, Is_Read_Back_By_A_Shell_As_It_Was) {
  for (const std::string text :
       {"a b", "it's \"x\"", "$(rm -rf /)", "`x`", "~",   "*",     "#1", "a\\b", "a\nb", "Füße",
        "!x",  ";|&<>()",    "-n",          "=",   "[a]", "{a,b}", "'",  "''",   "a=b",  "%1"}) {
    const auto shell = test::run_program({"/bin/sh", "-c", "printf %s. " + shell_quoted(text)});
    EXPECT_EQ(shell.out, text + ".") << shell_quoted(text);
  }
}

TEST(QmpAddresses, Are_Paths_Or_Tcp) {
  for (const char* text : {"/run/vm1.qmp", "unix:/run/vm1.qmp"}) {
    const QmpAddress address = parse_qmp_address(text);
    EXPECT_FALSE(address.is_tcp);
    EXPECT_EQ(address.path, "/run/vm1.qmp");
    EXPECT_EQ(address.text(), "/run/vm1.qmp");
  }
  EXPECT_EQ(parse_qmp_address("unix:unix:x").path, "unix:x");
  const QmpAddress tcp = parse_qmp_address("tcp:host.example:4444");
  EXPECT_TRUE(tcp.is_tcp);
  EXPECT_EQ(tcp.host, "host.example");
  EXPECT_EQ(tcp.port, "4444");
  EXPECT_EQ(parse_qmp_address("tcp:[::1]:4444").host, "::1");
}

TEST(QmpAddresses, That_Cannot_Be_Are_Refused_Before_Connecting) {
  for (const std::string& text : {std::string(), std::string("unix:"), std::string("tcp:"), std::string("tcp:host"),
                                  std::string("tcp:host:"), std::string("tcp::4444"), "/" + std::string(108, 'x')}) {
    EXPECT_THROW(parse_qmp_address(text), UsageError) << text;
  }
  EXPECT_NO_THROW(parse_qmp_address("/" + std::string(106, 'x')));
}

}  // namespace
}  // namespace qmpbackup
