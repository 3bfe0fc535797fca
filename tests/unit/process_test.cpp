// Programs that run beside this one.
#include "qmpbackup/process.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <string>

#include "qmpbackup/errors.hpp"

namespace qmpbackup {
namespace {

class Processes : public ::testing::Test {
 protected:
  ProcessResult run(const std::vector<std::string>& argv) {
    return run_process(loop_, argv, -1, after(std::chrono::seconds(60)),
                       [this](std::string_view piece) { out_ += piece; });
  }

  EventLoop loop_;
  std::string out_;
};

TEST_F(Processes, Tell_Why_They_Failed) {
  const ProcessResult spoken = run({"sh", "-c", "echo result; echo why >&2; echo more >&2; exit 3"});
  EXPECT_EQ(spoken.exit_code, 3);
  EXPECT_EQ(spoken.reason(), "why");
  EXPECT_EQ(out_, "result\n");
  const ProcessResult crashed = run({"sh", "-c", "kill -SEGV $$"});
  EXPECT_EQ(crashed.exit_code, 128 + SIGSEGV);
  EXPECT_EQ(crashed.reason(), "exit code 139");
}

// It says nothing about what they were to read.
TEST_F(Processes, That_Were_Killed_Or_Not_Started_Are_No_Verdict) {
  EXPECT_THROW(run({"sh", "-c", "kill -KILL $$"}), ResourceError);
  EXPECT_THROW(run({"qmpbackup-no-such-program"}), ResourceError);
}

TEST_F(Processes, Signals_That_The_Parent_Blocked_End_This_Program) {
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  ASSERT_EQ(::sigprocmask(SIG_BLOCK, &blocked, nullptr), 0);
  EventLoop loop;
  ::kill(::getpid(), SIGTERM);
  EXPECT_THROW(loop.sleep(std::chrono::seconds(60)), Interrupted);
}

// As daemons leave it to what they start: the kernel then reaps children itself, and their exit codes are lost.
TEST_F(Processes, Tell_Their_Exit_Codes_Where_The_Parent_Ignored_Them) {
  ASSERT_NE(std::signal(SIGCHLD, SIG_IGN), SIG_ERR);
  EventLoop loop;
  const auto run_in = [](EventLoop& in) {
    return run_process(in, {"sh", "-c", "exit 3"}, -1, after(std::chrono::seconds(60)), [](std::string_view) {});
  };
  EXPECT_EQ(run_in(loop).exit_code, 3);
  ASSERT_NE(std::signal(SIGCHLD, SIG_IGN), SIG_ERR);
  EXPECT_NE(run_in(loop).exit_code, 0) << "unknown is no success, and no reason to wait";
  ASSERT_NE(std::signal(SIGCHLD, SIG_DFL), SIG_ERR);
}

TEST_F(Processes, That_Are_Not_Installed_Are_Named) {
  try {
    run({"qmpbackup-no-such-program"});
    FAIL() << "it ran";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("qmpbackup-no-such-program"), std::string::npos) << error.what();
    EXPECT_NE(error.hint(), "");
  }
}

// Restores are a fifth slower without that.
TEST_F(Processes, Keep_Their_Memory_Unless_The_User_Has_Tuned_It) {
  ASSERT_EQ(::unsetenv("GLIBC_TUNABLES"), 0);
  EXPECT_EQ(run({"printenv", "GLIBC_TUNABLES"}).exit_code, 0);
  EXPECT_NE(out_.find("glibc.malloc.mmap_threshold="), std::string::npos) << out_;
  EXPECT_NE(out_.find("glibc.malloc.hugetlb=1"), std::string::npos) << out_;
  out_.clear();
  ASSERT_EQ(::setenv("GLIBC_TUNABLES", "glibc.malloc.check=0", 1), 0);
  EXPECT_EQ(run({"printenv", "GLIBC_TUNABLES"}).exit_code, 0);
  EXPECT_EQ(out_, "glibc.malloc.check=0\n");
  ASSERT_EQ(::unsetenv("GLIBC_TUNABLES"), 0);
}

}  // namespace
}  // namespace qmpbackup
