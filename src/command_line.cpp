#include "qmpbackup/command_line.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "qmpbackup/arguments.hpp"
#include "qmpbackup/backup_run.hpp"
#include "qmpbackup/errors.hpp"
#include "qmpbackup/reporter.hpp"
#include "qmpbackup/version.hpp"

namespace qmpbackup {
namespace {

constexpr auto kSeeHelp = "see qmpbackup --help";

constexpr auto kFooter = R"(Examples:
  qmpbackup -socket /run/vm1.qmp -backupFile /backup/vm1 -deviceToBackup drive0              a full
  qmpbackup -socket /run/vm1.qmp -backupFile /backup/vm1 -deviceToBackup drive0 -inc 0       the first incremental
  qmpbackup -socket /run/vm1.qmp -backupFile /backup/vm1 -deviceToBackup drive0 -inc auto    every night
  qemu-img convert -O qcow2 /backup/vm1.inc0.qcow2 restored.qcow2                            restore

Exit codes:
  0  done                                     4  QEMU cannot be reached, or broke off
  1  failed; the chain is as it was           5  another run holds this chain
  2  the command line is wrong                6  verify found damage
  3  this chain needs a new full            128+n  ended by signal n
)";

/// What was typed, as text: checked by check_* and turned into what the commands take.
struct Typed {
  std::string socket, base, device, device_alias, inc = "-1", compression, cluster_size, speed_limit;
  std::string progress = "auto", stall_timeout = "600", connect_timeout = "5";
  bool clean_bitmap = false, trace = false, adopt = false, buffered = false, no_space_check = false,
       no_checksum = false;
  bool dry_run = false, json = false, quiet = false, help = false, version = false;
};

std::string require(const std::string& value, std::string_view flag) {
  if (value.empty()) {
    throw UsageError(fmt::format("{} is missing", flag), kSeeHelp);
  }
  return value;
}

std::chrono::seconds check_seconds(const std::string& text, std::string_view flag) {
  constexpr int kMost = 7 * 24 * 3600;
  int seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc{} || end != text.data() + text.size() || seconds < 1 || seconds > kMost) {
    throw UsageError(fmt::format("{} takes a number of seconds from 1 to {}, not '{}'", flag, kMost, text), kSeeHelp);
  }
  return std::chrono::seconds(seconds);
}

std::optional<ByteCount> check_size(const std::string& text, std::string_view flag) {
  if (text.empty()) {
    return std::nullopt;
  }
  const auto size = parse_size(text);
  if (!size || *size == 0 || *size > ByteCount{1} << 62) {
    throw UsageError(fmt::format("{} takes a number of bytes such as 65536, 64K, 1M or 2G, not '{}'", flag, text),
                     kSeeHelp);
  }
  return size;
}

std::optional<ByteCount> check_cluster_size(const std::string& text) {
  const auto size = check_size(text, "--cluster-size");
  if (size &&
      (*size < 512 || *size > 2 * kMiB || (*size & (*size - 1)) != 0)) {  // docs/interop/qcow2.txt, QEMU's limit
    throw UsageError(fmt::format("--cluster-size takes a power of two from 512 to 2M, not '{}'", text), kSeeHelp);
  }
  return size;
}

std::optional<Level> check_level(const std::string& text) {
  if (text == "auto") {
    return std::nullopt;
  }
  constexpr int kMost = 1'000'000;
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || number < -1 || number > kMost) {
    throw UsageError(fmt::format("-inc takes -1 for a full, a level from 0 on, or auto, not '{}'", text), kSeeHelp);
  }
  return Level{number};
}

std::string check_device(const Typed& typed) {
  if (!typed.device.empty() && !typed.device_alias.empty() && typed.device != typed.device_alias) {
    throw UsageError(
        fmt::format("-deviceToBackup {} and -device {} name two devices", typed.device, typed.device_alias),
        "give one of them");
  }
  return require(typed.device.empty() ? typed.device_alias : typed.device, "-deviceToBackup");
}

std::string check_choice(const std::string& value, std::initializer_list<std::string_view> choices,
                         std::string_view flag) {
  if (std::find(choices.begin(), choices.end(), value) == choices.end()) {
    throw UsageError(fmt::format("{} takes {}, not '{}'", flag, fmt::join(choices, ", "), value), kSeeHelp);
  }
  return value;
}

ReporterOptions reporter_options(const Typed& typed) {
  const std::string progress = check_choice(typed.progress, {"auto", "always", "never"}, "--progress");
  return {typed.json, typed.quiet,
          progress == "auto"     ? ProgressMode::kAuto
          : progress == "always" ? ProgressMode::kAlways
                                 : ProgressMode::kNever};
}

Connection connection(const Typed& typed) {
  return {parse_qmp_address(require(typed.socket, "-socket")),
          {check_seconds(typed.connect_timeout, "--connect-timeout"),
           check_seconds(typed.stall_timeout, "--stall-timeout")},
          typed.trace};
}

void add_options(CLI::App& app, Typed& typed) {
  const auto text = [&](const char* names, std::string& value, const char* meaning, const char* type) {
    return app.add_option(names, value, meaning)
        ->type_name(type)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  };
  const auto flag = [&](const char* names, bool& value, const char* meaning) {
    return app.add_flag(names, value, meaning)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  };
  const char* what = "What to back up";
  text("--socket", typed.socket, "QMP address: a UNIX socket's path, unix:PATH or tcp:HOST:PORT", "ADDR")->group(what);
  text("--backupFile", typed.base, "base path: BASE.full.qcow2, BASE.inc0.qcow2 ...", "BASE")->group(what);
  text("--deviceToBackup", typed.device, "device name, qdev id or path, or node name", "DEV")->group(what);
  text("--device", typed.device_alias, "the same as -deviceToBackup", "DEV")->group(what);
  text("--inc", typed.inc, "-1: a full (default); N: that level; auto: the next one, or a full where none is possible",
       "N|auto")
      ->group(what);
  flag("--adopt", typed.adopt, "go on with a chain that the Go tool made (bitmap0)")->group(what);
  const char* how = "How to write it";
  text("--compress", typed.compression, "default: zstd where QEMU has it, else zlib", "zstd|zlib|none")->group(how);
  text("--cluster-size", typed.cluster_size, "default: 1M for a full, 64K for an incremental", "BYTES")->group(how);
  flag("--buffered", typed.buffered, "write through the page cache instead of direct I/O")->group(how);
  text("--speed-limit", typed.speed_limit, "at most so many bytes a second; K, M, G", "BYTES")->group(how);
  flag("--no-checksum", typed.no_checksum, "do not read the level back for its SHA-256")->group(how);
  const char* care = "Care for the guest";
  flag("--no-space-check", typed.no_space_check, "start even if the target may be too small")->group(care);
  text("--stall-timeout", typed.stall_timeout, "cancel when nothing moves for so long (default 600)", "SECONDS")
      ->group(care);
  text("--connect-timeout", typed.connect_timeout, "longest wait for QEMU's greeting (default 5)", "SECONDS")
      ->group(care);
  const char* instead = "Instead of a backup";
  flag("--cleanBitmap", typed.clean_bitmap,
       "remove this program's bitmaps from the device (with -backupFile: that chain's)")
      ->group(instead);
  flag("--dry-run", typed.dry_run, "print the QMP commands that would be sent, change nothing")->group(instead);
  flag("--version", typed.version, "print the version")->group(instead);
  flag("-h,--help", typed.help, "print this help")->group(instead);
  const char* output = "Output";
  flag("--json", typed.json, "JSON Lines on stdout")->group(output);
  flag("--quiet", typed.quiet, "warnings and errors only")->group(output);
  text("--progress", typed.progress, "default: auto, on a terminal only", "auto|always|never")->group(output);
  flag("--v", typed.trace, "print every QMP message, both ways, on stderr")->group(output);
}

/// The options of the Go tool are shown as its users know them, with one dash.
std::string help_text(const CLI::App& app) {
  std::string text = app.help();
  for (const char* name : {"socket", "backupFile", "deviceToBackup", "device", "inc", "cleanBitmap", "v"}) {
    const std::string shown = fmt::format("  --{} ", name);
    if (const auto at = text.find(shown); at != std::string::npos) {
      text.replace(at, shown.size(), fmt::format("  -{}  ", name));
    }
  }
  return text;
}

void parse(CLI::App& app, const std::vector<std::string>& arguments) {
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());  // as CLI11 wants them
  try {
    app.parse(reversed);
  } catch (const CLI::ExtrasError&) {
    throw UsageError(fmt::format("unknown argument '{}'", app.remaining().front()), kSeeHelp);
  } catch (const CLI::ParseError& error) {
    throw UsageError(error.what(), kSeeHelp);
  }
  if (const auto remaining = app.remaining(); !remaining.empty()) {
    throw UsageError(fmt::format("unknown argument '{}'", remaining.front()), kSeeHelp);
  }
}

void run(const Typed& typed, Reporter& reporter) {
  const Connection where = connection(typed);
  const std::string device = check_device(typed);
  if (typed.clean_bitmap) {
    EventLoop loop;
    run_clean_bitmap(loop, reporter, where, device,
                     typed.base.empty() ? std::nullopt : std::optional(ChainFiles(typed.base)));
    return;
  }
  BackupRequest request{.device = device, .files = ChainFiles(require(typed.base, "-backupFile"))};
  request.level = check_level(typed.inc);
  if (!typed.compression.empty()) {
    request.compression = check_choice(typed.compression, {"zstd", "zlib", "none"}, "--compress");
  }
  request.cluster_size = check_cluster_size(typed.cluster_size);
  request.speed_bytes_per_second = check_size(typed.speed_limit, "--speed-limit");
  request.buffered = typed.buffered;
  request.check_space = !typed.no_space_check;
  request.adopt = typed.adopt;
  request.command = fmt::format("qmpbackup -socket {} -backupFile {} -deviceToBackup {}", shell_quoted(typed.socket),
                                shell_quoted(typed.base), shell_quoted(device));
  EventLoop loop;
  run_backup(loop, reporter, {where, {std::move(request)}, typed.dry_run, !typed.no_checksum});
}

/// The exit code of the design's table for an error.
int exit_code_for(const std::exception& error) {
  if (dynamic_cast<const UsageError*>(&error) != nullptr) {
    return 2;
  }
  if (dynamic_cast<const NewFullNeeded*>(&error) != nullptr) {
    return 3;
  }
  if (dynamic_cast<const ConnectError*>(&error) != nullptr) {
    return 4;
  }
  if (dynamic_cast<const ChainBusy*>(&error) != nullptr) {
    return 5;
  }
  if (dynamic_cast<const DamageFound*>(&error) != nullptr) {
    return 6;
  }
  if (const auto* interrupted = dynamic_cast<const Interrupted*>(&error)) {
    return 128 + interrupted->signal_number();
  }
  return 1;
}

int report(Reporter& reporter, const std::exception& error) {
  const int code = exit_code_for(error);
  const auto* ours = dynamic_cast<const Error*>(&error);
  reporter.error(code, error.what(), ours == nullptr ? "" : ours->hint());
  return code;
}

}  // namespace

int run_command_line(int argc, const char* const* argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const bool json = std::find(arguments.begin(), arguments.end(), "--json") != arguments.end();
  try {
    CLI::App app("Live full and incremental backups of QEMU disks over QMP.", "qmpbackup");
    app.set_help_flag();
    app.footer(kFooter);
    app.get_formatter()->column_width(34);
    Typed typed;
    add_options(app, typed);
    parse(app, rewrite_arguments(arguments));
    if (typed.help) {
      std::cout << help_text(app);
      return 0;
    }
    if (typed.version) {
      std::cout << "qmpbackup " << kVersion << "\n";
      return 0;
    }
    Reporter reporter(reporter_options(typed));
    try {
      run(typed, reporter);
      return 0;
    } catch (const std::exception& error) {
      return report(reporter, error);
    }
  } catch (const std::exception& error) {
    Reporter reporter({json, false, ProgressMode::kNever});
    return report(reporter, error);
  }
}

}  // namespace qmpbackup
