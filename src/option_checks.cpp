#include "qmpbackup/option_checks.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "qmpbackup/errors.hpp"

namespace qmpbackup {
namespace {

/// A whole number within limits, and nothing behind it.
std::optional<int> parse_number(const std::string& text, int least, int most) {
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = error == std::errc{} && end == text.data() + text.size();
  return whole && number >= least && number <= most ? std::optional(number) : std::nullopt;
}

}  // namespace

void add_text(CLI::App& app, const char* names, std::string& value, const char* meaning, const char* type,
              const char* group) {
  app.add_option(names, value, meaning)
      ->type_name(type)
      ->check([](const std::string& typed) { return std::string(typed.empty() ? "empty" : ""); })
      ->group(group)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
}

void add_flag(CLI::App& app, const char* names, bool& value, const char* meaning, const char* group) {
  app.add_flag(names, value, meaning)->group(group)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
}

void add_socket_option(CLI::App& app, Invocation& in) {
  add_text(app, "--socket", in.socket, "QMP socket: its path, unix:PATH, tcp:HOST:PORT", "ADDR", kWhat);
}

void add_waiting_options(CLI::App& app, Invocation& in) {
  add_text(app, "--stall-timeout", in.stall_timeout, "give up when nothing moves for it (default 600)", "SECONDS",
           kCare);
  add_text(app, "--connect-timeout", in.connect_timeout, "longest wait for QEMU's greeting (default 5)", "SECONDS",
           kCare);
  add_flag(app, "--v", in.trace, "print every QMP message, both ways, on stderr", kOutput);
}

void add_output_options(CLI::App& app, Invocation& in) {
  add_flag(app, "--json", in.json, "JSON Lines on stdout", kOutput);
  add_flag(app, "--quiet", in.quiet, "warnings and errors only", kOutput);
  add_text(app, "--progress", in.progress, "default: auto, on a terminal only", "auto|always|never", kOutput);
  add_flag(app, "-h,--help", in.help, "print this help", kOutput);
}

std::string require(const std::string& value, std::string_view flag) {
  if (value.empty()) {
    throw UsageError(fmt::format("{} is missing", flag));
  }
  return value;
}

std::string check_choice(const std::string& value, std::initializer_list<std::string_view> choices,
                         std::string_view flag) {
  if (std::find(choices.begin(), choices.end(), value) == choices.end()) {
    throw UsageError(fmt::format("{} takes {}, not '{}'", flag, fmt::join(choices, ", "), value));
  }
  return value;
}

std::chrono::seconds check_seconds(const std::string& text, std::string_view flag) {
  constexpr int kMost = 7 * 24 * 3600;
  const auto seconds = parse_number(text, 1, kMost);
  if (!seconds) {
    throw UsageError(fmt::format("{} takes a number of seconds from 1 to {}, not '{}'", flag, kMost, text));
  }
  return std::chrono::seconds(*seconds);
}

std::optional<ByteCount> check_size(const std::string& text, std::string_view flag) {
  if (text.empty()) {
    return std::nullopt;
  }
  const auto size = parse_size(text);
  if (!size || *size == 0 || *size > ByteCount{1} << 62) {  // QMP's numbers are signed
    throw UsageError(fmt::format("{} takes a number of bytes such as 65536, 64K, 1M or 2G, not '{}'", flag, text));
  }
  return size;
}

std::optional<Level> check_level(const std::string& text) {
  if (text == "auto") {
    return std::nullopt;
  }
  const auto number = parse_number(text, -1, 1'000'000);
  if (!number) {
    throw UsageError(fmt::format("-inc takes -1 for a full, a level from 0 on, or auto, not '{}'", text));
  }
  return Level{*number};
}

Connection check_connection(const Invocation& in) {
  return {parse_qmp_address(require(in.socket, "-socket")),
          {check_seconds(in.connect_timeout, "--connect-timeout"), check_seconds(in.stall_timeout, "--stall-timeout")},
          in.trace};
}

ReporterOptions check_reporter(const Invocation& in) {
  const std::string progress = check_choice(in.progress, {"auto", "always", "never"}, "--progress");
  const auto mode = progress == "auto"     ? ProgressMode::kAuto
                    : progress == "always" ? ProgressMode::kAlways
                                           : ProgressMode::kNever;
  return {in.json, in.quiet, mode};
}

}  // namespace qmpbackup
