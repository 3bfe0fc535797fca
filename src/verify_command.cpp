#include <CLI/CLI.hpp>

#include <memory>

#include "qmpbackup/commands.hpp"
#include "qmpbackup/verify_run.hpp"

namespace qmpbackup {

void add_verify_command(CLI::App& app, Invocation& in) {
  CLI::App& verify = *app.add_subcommand("verify", "check that the levels of a chain are sound, and which restore");
  const auto deep = std::make_shared<bool>(false);
  add_text(verify, "--backupFile", in.base, "base path of the chain", "BASE", "Which chain");
  add_flag(verify, "--deep", *deep, "also read and decompress the newest level through the whole chain", "How");
  verify.footer(R"(Examples:
  qmpbackup verify -backupFile /backup/vm1          compare checksums, check structure
  qmpbackup verify -backupFile /backup/vm1 --deep   and read the newest level as a restore would

Exit codes: 0 all levels are sound; 6 damage was found; 1 there is no chain, or no level yet;
5 another run changes the chain again and again: try again.
)");
  add_output_options(verify, in);
  verify.callback([&in, deep] {
    in.run = [&in, deep](EventLoop& loop, Reporter& reporter) {
      run_verify(loop, reporter, ChainFiles(require(in.base, "-backupFile")), *deep);
    };
  });
}

}  // namespace qmpbackup
