#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "qmpbackup/event_loop.hpp"

namespace qmpbackup {

struct ProcessResult {
  int exit_code = 0;  ///< 128+n when a signal n ended it
  std::string err;    ///< the last 4 KiB of its standard error
};

/// Runs a program found on PATH with an argument vector, never a shell, and waits for its end. Its standard input is
/// empty; its standard output goes to `on_output` piece by piece. Descriptor `inherited`, unless -1, is its descriptor
/// 3: an argument can name that file as /dev/fd/3, whatever it is called. Throws Error when it cannot be started or is
/// not done at the deadline, Interrupted, and what `on_output` throws. The program does not outlive the call.
ProcessResult run_process(EventLoop& loop, const std::vector<std::string>& argv, int inherited, Deadline deadline,
                          const std::function<void(std::string_view)>& on_output);

}  // namespace qmpbackup
