#pragma once

namespace qmpbackup {

/// The whole program: parses the arguments, runs the command, reports errors. Returns the exit code of the design's
/// table.
int run_command_line(int argc, const char* const* argv);

}  // namespace qmpbackup
