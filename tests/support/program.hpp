// Running programs: the tool under test, qemu-img, QEMU itself. An argv, never a shell.
//
// Every child starts with the default SIGINT, SIGTERM, SIGHUP and SIGPIPE and an empty signal mask, and is killed when
// the thread that started it ends: start long-lived programs on the test's own thread.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace qmpbackup::test {

struct RunOptions {
  std::map<std::string, std::string> environment = {};  // added to the test's own
  std::string stdin_text = {};
  std::filesystem::path working_folder = {};
  std::string user = {};  // run as that user (needs root)
  std::chrono::milliseconds timeout = std::chrono::seconds(120);
};

struct ProgramResult {
  int exit_code = 0;  // 128 + signal when a signal ended it
  int signal = 0;     // 0 when it exited by itself
  bool timed_out = false;
  std::string out;  // on a terminal: stdout and stderr together
  std::string err;
  double seconds = 0;
};

// The tool under test: $QMPBACKUP_TEST_TOOL, or the one that was built with the tests.
std::string tool_binary();

// Its command line.
template <typename... Arguments>
std::vector<std::string> tool(const Arguments&... arguments) {
  return {tool_binary(), std::string(arguments)...};
}

// Runs to the end. A program that is still there after the timeout gets SIGKILL, and `timed_out` is set.
// Throws std::runtime_error if there is no such program.
ProgramResult run_program(const std::vector<std::string>& argv, const RunOptions& options = {});

// The same, throwing std::runtime_error (with stderr) unless it exits with 0. Returns stdout.
std::string run_checked(const std::vector<std::string>& argv, const RunOptions& options = {});

// A program running beside the test; the destructor kills it. Its output goes to files in memory, so it never waits
// for a reader. Its functions may be called by several threads.
class BackgroundProgram {
 public:
  // Starts at once. The timeout of `options` is not used.
  explicit BackgroundProgram(const std::vector<std::string>& argv, const RunOptions& options = {});
  ~BackgroundProgram();
  BackgroundProgram(BackgroundProgram&&) noexcept;
  BackgroundProgram& operator=(BackgroundProgram&&) noexcept;

  pid_t pid() const;
  bool running();
  // Does nothing when the program is over.
  void send_signal(int signal);
  // Waits up to `timeout`; true when the program is over.
  bool finished_within(std::chrono::milliseconds timeout);
  // The result; a program that is not over after `timeout` gets SIGKILL. May be called again.
  ProgramResult wait(std::chrono::milliseconds timeout = std::chrono::seconds(120));
  // What was written so far, from byte `from` on.
  std::string out(std::size_t from = 0) const;
  std::string err(std::size_t from = 0) const;
  std::size_t out_size() const;
  std::size_t err_size() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

struct PtyOptions {
  RunOptions run = {};
  unsigned short columns = 80;
  // Called whenever output arrived (and every 20 ms) with all that was seen so far. What it returns is typed on the
  // terminal: "\x03" is ctrl-c.
  std::function<std::string(const std::string& seen)> type_when = {};
};

// Runs a program whose stdin, stdout and stderr are a terminal of its own.
ProgramResult run_on_pty(const std::vector<std::string>& argv, const PtyOptions& options = {});

}  // namespace qmpbackup::test
