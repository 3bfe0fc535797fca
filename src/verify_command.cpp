#include <CLI/CLI.hpp>

#include <memory>

#include "qmpbackup/commands.hpp"
#include "qmpbackup/verify_run.hpp"

namespace qmpbackup {

void add_verify_command(CLI::App& app, Invocation& in) {
  CLI::App& verify = *app.add_subcommand("verify", "check that levels are sound, and which restore");
  const auto deep = std::make_shared<bool>(false);
  add_text(verify, "--backupFile", in.base, "base path of the chain", "BASE", "Which chain");
  add_flag(verify, "--deep", *deep, "also read the newest level through the chain", "How");
  verify.footer(R"(Examples:
  qmpbackup verify -backupFile /backup/vm1         checksums and structure
  qmpbackup verify -backupFile /backup/vm1 --deep  and read it through

Exit codes:
  0  all levels are sound
  1  there is no chain, no level yet, or a level that cannot be read
  5  another run changes the chain again and again: try again
  6  damage was found
)");
  add_output_options(verify, in);
  verify.callback([&in, deep] {
    in.run = [&in, deep](EventLoop& loop, Reporter& reporter) {
      run_verify(loop, reporter, ChainFiles(require(in.base, "-backupFile")), *deep);
    };
  });
}

}  // namespace qmpbackup
