#include <CLI/CLI.hpp>

#include <memory>

#include "qmpbackup/commands.hpp"
#include "qmpbackup/errors.hpp"
#include "qmpbackup/merge_run.hpp"

namespace qmpbackup {
namespace {

struct Typed {
  bool no_space_check = false, dry_run = false;
};

void run(const Invocation& in, const Typed& typed, EventLoop& loop, Reporter& reporter) {
  MergeRequest request{.files = ChainFiles(require(in.base, "-backupFile")), .through = {}};
  const auto level = check_level(require(in.inc, "-inc"));
  if (!level || level->is_full()) {
    throw UsageError("merge takes -inc N with a level from 0 on");
  }
  request.through = *level;
  request.check_space = !typed.no_space_check;
  request.dry_run = typed.dry_run;
  run_merge(loop, reporter, request);
}

}  // namespace

void add_merge_command(CLI::App& app, Invocation& in) {
  CLI::App& merge = *app.add_subcommand("merge", "make the full and levels up to N one new full");
  const auto typed = std::make_shared<Typed>();
  const char* what = "What to merge";
  add_text(merge, "--backupFile", in.base, "base path of the chain", "BASE", what);
  add_text(merge, "--inc", in.inc, "the last level that goes into the new full", "N", what);
  add_flag(merge, "--no-space-check", typed->no_space_check, "start even if the folder may be too small", what);
  add_flag(merge, "--dry-run", typed->dry_run, "say what would be done, change nothing", what);
  merge.footer(R"(Examples:
  qmpbackup merge -backupFile /backup/vm1 -inc 5 --dry-run
  qmpbackup merge -backupFile /backup/vm1 -inc 5
      the full and inc0 to inc5 become the full; inc6 and later stay

Overlays of the full and of merged levels (restore --overlay) do not survive
this: make them independent first.
)");
  add_output_options(merge, in);
  merge.callback([&in, typed] {
    in.run = [&in, typed](EventLoop& loop, Reporter& reporter) { run(in, *typed, loop, reporter); };
  });
}

}  // namespace qmpbackup
