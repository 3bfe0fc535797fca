#include <CLI/CLI.hpp>

#include "qmpbackup/commands.hpp"
#include "qmpbackup/list_run.hpp"

namespace qmpbackup {

void add_list_command(CLI::App& app, Invocation& in) {
  CLI::App& list = *app.add_subcommand("list", "show the levels of a chain, or of a folder's");
  add_text(list, "--backupFile", in.base, "base path of a chain, or a folder", "BASE", "Which chain");
  list.footer(R"(Examples:
  qmpbackup list -backupFile /backup/vm1            one chain
  qmpbackup list -backupFile /backup --json         a folder's, for scripts
)");
  add_output_options(list, in);
  list.callback([&in] {
    in.run = [&in](EventLoop& loop, Reporter& reporter) { run_list(loop, reporter, require(in.base, "-backupFile")); };
  });
}

}  // namespace qmpbackup
