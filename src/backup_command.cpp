#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <memory>

#include "qmpbackup/arguments.hpp"
#include "qmpbackup/backup_run.hpp"
#include "qmpbackup/clean_bitmap_run.hpp"
#include "qmpbackup/commands.hpp"
#include "qmpbackup/errors.hpp"

namespace qmpbackup {
namespace {

/// What only this command takes, as typed.
struct Typed {
  std::string device, device_alias, compression, cluster_size, speed_limit;
  bool clean_bitmap = false, adopt = false, buffered = false, no_space_check = false, no_checksum = false,
       dry_run = false;
};

std::optional<ByteCount> check_cluster_size(const std::string& text) {
  const auto size = check_size(text, "--cluster-size");
  if (size && (*size < 512 || *size > 2 * kMiB || (*size & (*size - 1)) != 0)) {  // QEMU's limits for qcow2
    throw UsageError(fmt::format("--cluster-size takes a power of two from 512 to 2M, not '{}'", text));
  }
  return size;
}

std::string check_device(const Typed& typed) {
  if (!typed.device.empty() && !typed.device_alias.empty() && typed.device != typed.device_alias) {
    throw UsageError(
        fmt::format("-deviceToBackup {} and -device {} name two devices", typed.device, typed.device_alias),
        "give one of them");
  }
  return require(typed.device.empty() ? typed.device_alias : typed.device, "-deviceToBackup");
}

/// How the level is to be written, as typed.
std::string options_of(const Typed& typed) {
  std::string options;
  for (const auto& [name, value] : {std::pair{"--compress", typed.compression},
                                    {"--cluster-size", typed.cluster_size},
                                    {"--speed-limit", typed.speed_limit}}) {
    options += value.empty() ? "" : fmt::format(" {} {}", name, shell_quoted(value));
  }
  for (const auto& [name, is_set] : {std::pair{"--buffered", typed.buffered},
                                     {"--no-checksum", typed.no_checksum},
                                     {"--no-space-check", typed.no_space_check}}) {
    options += is_set ? fmt::format(" {}", name) : "";
  }
  return options;
}

void run(const Invocation& in, const Typed& typed, EventLoop& loop, Reporter& reporter) {
  const Connection where = check_connection(in);
  const std::string device = check_device(typed);
  if (typed.clean_bitmap) {
    if (!in.inc.empty()) {
      throw UsageError("-cleanBitmap takes no backup, and so no -inc", "run one after the other");
    }
    run_clean_bitmap(
        loop, reporter,
        {where, device, in.base.empty() ? std::nullopt : std::optional(ChainFiles(in.base)), typed.dry_run});
    return;
  }
  BackupRequest request{.device = device, .files = ChainFiles(require(in.base, "-backupFile"))};
  request.level = in.inc.empty() ? kFullLevel : check_level(in.inc);
  if (!typed.compression.empty()) {
    request.compression = check_choice(typed.compression, {"zstd", "zlib", "none"}, "--compress");
  }
  request.cluster_size = check_cluster_size(typed.cluster_size);
  request.speed_bytes_per_second = check_size(typed.speed_limit, "--speed-limit");
  request.buffered = typed.buffered;
  request.check_space = !typed.no_space_check;
  request.adopt = typed.adopt;
  request.command = fmt::format("qmpbackup -socket {} -backupFile {} -deviceToBackup {}{}", shell_quoted(in.socket),
                                shell_quoted(in.base), shell_quoted(device), options_of(typed));
  run_backup(loop, reporter, {where, {std::move(request)}, typed.dry_run, !typed.no_checksum});
}

}  // namespace

void add_backup_command(CLI::App& app, Invocation& in) {
  const auto typed = std::make_shared<Typed>();
  add_socket_option(app, in);
  add_text(app, "--backupFile", in.base, "base path: BASE.full.qcow2, BASE.inc0.qcow2", "BASE", kWhat);
  add_text(app, "--deviceToBackup", typed->device, "device name, qdev id or path, or node name", "DEV", kWhat);
  add_text(app, "--device", typed->device_alias, "the same as -deviceToBackup", "DEV", kWhat);
  add_text(app, "--inc", in.inc, "-1: a full (default); N: that; auto: the next", "N|auto", kWhat);
  add_flag(app, "--adopt", typed->adopt, "go on with a chain of the Go tool (bitmap0)", kWhat);
  const char* how = "How to write it";
  add_text(app, "--compress", typed->compression, "default: zstd where QEMU has it, else zlib", "zstd|zlib|none", how);
  add_text(app, "--cluster-size", typed->cluster_size, "default: 1M for a compressed full, else 64K", "BYTES", how);
  add_flag(app, "--buffered", typed->buffered, "write through the page cache, not direct I/O", how);
  add_text(app, "--speed-limit", typed->speed_limit, "at most so many bytes a second; K, M, G", "BYTES", how);
  add_flag(app, "--no-checksum", typed->no_checksum, "do not read the level back for its SHA-256", how);
  const char* instead = "Instead of a backup";
  add_flag(app, "--cleanBitmap", typed->clean_bitmap, "remove its bitmaps (-backupFile: of that chain)", instead);
  add_flag(app, "--dry-run", typed->dry_run, "print the QMP commands, change nothing", instead);
  add_flag(app, "--no-space-check", typed->no_space_check, "start even if the target may be too small", kCare);
  add_waiting_options(app, in);
  in.run = [&in, typed](EventLoop& loop, Reporter& reporter) { run(in, *typed, loop, reporter); };
}

}  // namespace qmpbackup
