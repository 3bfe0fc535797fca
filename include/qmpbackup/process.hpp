#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "qmpbackup/event_loop.hpp"

namespace qmpbackup {

/// For a child whose work takes as long as its data is large. A signal to this program ends it at any time.
inline constexpr std::chrono::hours kLongestWork{7 * 24};

struct ProcessResult {
  int exit_code = 0;  ///< 128+n when a signal n ended it
  std::string err;    ///< the last 4 KiB of its standard error

  /// Why it failed: the first line of that, or the exit code where it said nothing.
  [[nodiscard]] std::string reason() const;
};

/// How a child opens the descriptor that it inherits, 3, as a file, whatever that is called.
inline constexpr auto kInheritedFile = "/dev/fd/3";

/// A program found on PATH that runs beside this one: an argument vector, never a shell. Its standard input is empty,
/// its standard output goes to `on_output` piece by piece while the event loop is waited or polled on. The destructor
/// kills it; when this program is killed, it gets SIGTERM. It may have as
/// many files open as the hard limit allows. Its environment is this program's, with GLIBC_TUNABLES for
/// qemu-img where there are none.
class Process {
 public:
  using OnOutput = std::function<void(std::string_view)>;

  /// Starts it. Descriptor `inherited`, unless -1, is kInheritedFile to it. Throws Error when it cannot be started.
  Process(EventLoop& loop, const std::vector<std::string>& argv, int inherited, OnOutput on_output);
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process();

  /// Whether it has closed its output, as it does when it ends.
  [[nodiscard]] bool ended() const;

  /// Waits for its end. Throws Error when it is not done at the deadline, Interrupted, and what `on_output` throws.
  ProcessResult wait(Deadline deadline);

 private:
  struct Running;
  std::unique_ptr<Running> running_;
};

/// How many programs can work at the same time: the processors that this process may use.
std::size_t processors();

/// Throws Error unless there is such a program on PATH.
void require_program(const std::string& name);

/// Throws ResourceError unless a program that is run may have so many files open.
void require_open_files(std::size_t count);

/// Whether a child that looks at the path, which need not be there, comes back in that time, or in 5 seconds: who looks
/// at a storage that hangs waits with it, and no signal helps. Throws Interrupted.
bool storage_answers(EventLoop& loop, const std::string& path, std::chrono::steady_clock::duration time);

/// Runs a program to its end: Process, then wait.
ProcessResult run_process(EventLoop& loop, const std::vector<std::string>& argv, int inherited, Deadline deadline,
                          const Process::OnOutput& on_output);

}  // namespace qmpbackup
