#pragma once

#include "qmpbackup/option_checks.hpp"

namespace qmpbackup {

// One function a command, each in a file of its own. It adds the command's options and sets `invocation.run` when the
// command is the one that was typed. `invocation` outlives the parse.

void add_backup_command(CLI::App& app, Invocation& invocation);  ///< no subcommand; -cleanBitmap too
void add_list_command(CLI::App& app, Invocation& invocation);
void add_verify_command(CLI::App& app, Invocation& invocation);
void add_restore_command(CLI::App& app, Invocation& invocation);
void add_merge_command(CLI::App& app, Invocation& invocation);
void add_info_command(CLI::App& app, Invocation& invocation);

}  // namespace qmpbackup
