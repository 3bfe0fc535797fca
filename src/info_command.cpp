#include <CLI/CLI.hpp>

#include "qmpbackup/commands.hpp"
#include "qmpbackup/info_run.hpp"

namespace qmpbackup {

void add_info_command(CLI::App& app, Invocation& in) {
  CLI::App& info = *app.add_subcommand("info", "show a VM's disks, and what a backup would do");
  add_socket_option(info, in);
  add_waiting_options(info, in);
  info.footer(R"(Example:
  qmpbackup info -socket /run/vm1.qmp
)");
  add_output_options(info, in);
  info.callback([&in] {
    in.run = [&in](EventLoop& loop, Reporter& reporter) { run_info(loop, reporter, check_connection(in)); };
  });
}

}  // namespace qmpbackup
