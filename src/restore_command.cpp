#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <memory>

#include "qmpbackup/clock.hpp"
#include "qmpbackup/commands.hpp"
#include "qmpbackup/errors.hpp"
#include "qmpbackup/restore_run.hpp"

namespace qmpbackup {
namespace {

struct Typed {
  std::string output, at, export_socket, format;
  bool overlay = false, force = false, no_checksum = false;
};

void run(const Invocation& in, const Typed& typed, EventLoop& loop, Reporter& reporter) {
  RestoreRequest request{.files = ChainFiles(require(in.base, "-backupFile"))};
  if (typed.export_socket.empty()) {
    request.output = require(typed.output, "--output");
  } else if (!typed.output.empty()) {
    throw UsageError("--output and --export both say where to", "give one of them");
  } else {
    request.export_socket = typed.export_socket;
    if (typed.overlay || typed.force || !typed.format.empty()) {
      throw UsageError(
          fmt::format("--export serves the level as it is: {} does not go with it", typed.overlay ? "--overlay"
                                                                                    : typed.force ? "--force"
                                                                                                  : "--format"),
          "leave one of them out");
    }
  }
  if (!typed.format.empty()) {
    request.format = check_choice(typed.format, {"qcow2", "raw"}, "--format");
    request.format_given = true;
  }
  if (typed.no_checksum && (typed.overlay || !typed.export_socket.empty())) {
    throw UsageError("--overlay and --export read no data, and compare no checksums", "leave --no-checksum out");
  }
  request.checksums = !typed.no_checksum;
  request.overlay = typed.overlay;
  request.force = typed.force;
  if (!in.inc.empty() && !typed.at.empty()) {
    throw UsageError("-inc and --at both choose a level", "give one of them");
  }
  if (!in.inc.empty()) {
    request.level = check_level(in.inc);
    if (!request.level) {
      throw UsageError("-inc takes -1 for the full, or a level from 0 on; the newest is taken without it");
    }
  }
  if (!typed.at.empty()) {
    request.at = parse_time(typed.at);
    if (!request.at) {
      throw UsageError(
          fmt::format("--at takes a time such as \"2026-11-20 03:00\" or 2026-11-20T02:00:00Z, not '{}'", typed.at));
    }
  }
  if (request.overlay && request.format != "qcow2") {
    throw UsageError("--overlay makes a qcow2 file", "leave --format out");
  }
  if (request.overlay && request.force) {
    throw UsageError("--overlay makes a new file, --force overwrites a block device", "leave one of them out");
  }
  run_restore(loop, reporter, request);
}

}  // namespace

void add_restore_command(CLI::App& app, Invocation& in) {
  CLI::App& restore = *app.add_subcommand("restore", "make a disk image from a level, or fill a device");
  const auto typed = std::make_shared<Typed>();
  const char* from = "From which level";
  add_text(restore, "--backupFile", in.base, "base path of the chain", "BASE", from);
  add_text(restore, "--inc", in.inc, "-1: the full; N: that one; default: the newest", "N", from);
  add_text(restore, "--at", typed->at, "the newest not after this time (local, Z: UTC)", "TIME", from);
  const char* to = "To where";
  add_text(restore, "--output", typed->output, "a new file, or a block device with --force", "FILE", to);
  add_text(restore, "--format", typed->format, "default: qcow2", "qcow2|raw", to);
  add_flag(restore, "--overlay", typed->overlay, "at once: a qcow2 on top of the level", to);
  add_flag(restore, "--no-checksum", typed->no_checksum, "do not compare checksums (after a verify, say)", to);
  add_flag(restore, "--force", typed->force, "overwrite a block device", to);
  add_text(restore, "--export", typed->export_socket, "serve the level over NBD, for single files", "SOCKET", to);
  restore.footer(R"(Examples:
  qmpbackup restore -backupFile /backup/vm1 --output vm1.qcow2
  qmpbackup restore -backupFile /backup/vm1 --at "2026-11-20 03:00" --output old
  qmpbackup restore -backupFile /backup/vm1 -inc 3 --output /dev/vg0/vm1 --force
  qmpbackup restore -backupFile /backup/vm1 -inc 3 --export /tmp/vm1.sock

An overlay lies on the chain: no merge, no new full and no move of the chain
before the overlay is made independent.
)");
  add_output_options(restore, in);
  restore.callback([&in, typed] {
    in.run = [&in, typed](EventLoop& loop, Reporter& reporter) { run(in, *typed, loop, reporter); };
  });
}

}  // namespace qmpbackup
