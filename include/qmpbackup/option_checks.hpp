#pragma once

#include <chrono>
#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include "qmpbackup/connection.hpp"
#include "qmpbackup/ids.hpp"
#include "qmpbackup/reporter.hpp"
#include "qmpbackup/sizes.hpp"

namespace CLI {
class App;
}

namespace qmpbackup {

/// What the command line asks for, as typed; shared by all commands.
struct Invocation {
  std::string socket;
  std::string base;
  std::string inc;
  std::string progress = "auto";
  std::string stall_timeout = "600";
  std::string connect_timeout = "5";
  bool trace = false;
  bool json = false;
  bool quiet = false;
  bool help = false;
  /// Checks what was typed and does it.
  std::function<void(EventLoop&, Reporter&)> run;
};

// Options that several commands have. Each is added to the command's own list.
void add_text(CLI::App& app, const char* names, std::string& value, const char* meaning, const char* type,
              const char* group);
void add_flag(CLI::App& app, const char* names, bool& value, const char* meaning, const char* group);
void add_socket_option(CLI::App& app, Invocation& invocation);
void add_waiting_options(CLI::App& app, Invocation& invocation);
void add_output_options(CLI::App& app, Invocation& invocation);

inline constexpr auto kWhat = "What to back up";
inline constexpr auto kCare = "Care for the guest";
inline constexpr auto kOutput = "Output";

// Typed text to what it means. All throw UsageError that names the flag.
std::string require(const std::string& value, std::string_view flag);
std::string check_choice(const std::string& value, std::initializer_list<std::string_view> choices,
                         std::string_view flag);
std::chrono::seconds check_seconds(const std::string& text, std::string_view flag);
/// Nothing for empty text.
std::optional<ByteCount> check_size(const std::string& text, std::string_view flag);
/// Nothing for `auto`.
std::optional<Level> check_level(const std::string& text);
Connection check_connection(const Invocation& invocation);
ReporterOptions check_reporter(const Invocation& invocation);

}  // namespace qmpbackup
