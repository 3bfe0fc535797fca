// The one place that forks. Internal to the support library.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <mutex>
#include <string>
#include <vector>

#include "support/program.hpp"
#include "support/unix_socket.hpp"

namespace qmpbackup::test {

struct ChildStreams {
  int in = -1, out = -1, err = -1;
  bool terminal = false;  // `in` becomes the controlling terminal of a new session
};

// Starts a program (see program.hpp for what every child is given). Throws std::runtime_error if there is none.
pid_t spawn(const std::vector<std::string>& argv, const RunOptions& options, const ChildStreams& streams);

// A child of this process, up to its end. Its functions may be called by several threads.
class Child {
 public:
  explicit Child(pid_t pid);
  ~Child();  // kills it
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  void send_signal(int signal) const;
  // Waits; true when it is over.
  bool finished_within(std::chrono::milliseconds timeout);
  // Waits, then kills. Fills in exit_code, signal, timed_out and seconds.
  ProgramResult wait(std::chrono::milliseconds timeout);

 private:
  pid_t pid_;
  UniqueFd pidfd_;  // a signal by it can never hit another process that got the same pid
  std::chrono::steady_clock::time_point started_;
  std::mutex mutex_;  // guards the rest
  bool finished_ = false;
  ProgramResult result_;
};

}  // namespace qmpbackup::test
