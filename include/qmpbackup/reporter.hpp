#pragma once

#include <nlohmann/json.hpp>

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "qmpbackup/errors.hpp"
#include "qmpbackup/progress.hpp"

namespace qmpbackup {

enum class ProgressMode { kAuto, kAlways, kNever };

struct ReporterOptions {
  bool json = false;
  bool quiet = false;
  ProgressMode progress = ProgressMode::kAuto;
};

/// The only part that prints. Results go to stdout, all else to stderr. With `json`, stdout carries JSON Lines alone.
/// Control characters in text are shown as \xNN: a file name cannot play tricks on the terminal.
class Reporter {
 public:
  explicit Reporter(const ReporterOptions& options);
  ~Reporter();
  Reporter(const Reporter&) = delete;
  Reporter& operator=(const Reporter&) = delete;

  /// Something the operator should know: stderr, and the summary's `warnings`.
  void warning(const std::string& text);
  /// Something that was done on the way, such as cleaning up: stderr unless quiet.
  void note(const std::string& text);
  /// A line that moves on a terminal; `status` lines with json. Call it as often as you like: it keeps its own pace.
  void progress(const Progress& progress);
  /// What is going on, on the moving line of a terminal.
  void passing(const std::string& text);
  /// Ends the moving line.
  void end_progress();
  /// A result in both forms: the lines for people are left out when quiet.
  void result(const std::vector<std::string>& lines, nlohmann::json summary);
  /// A line of a listing on stdout, or a JSON object of its own kind.
  void line(const std::string& text);
  void json_line(const nlohmann::json& object);
  /// A QMP command that a dry run would send.
  void planned(const nlohmann::json& command);
  void error(int exit_code, const std::string& message, const std::string& hint);
  /// A QMP message, for -v.
  void trace(std::string_view direction, std::string_view message);

  /// Throws Error when a result could not be written to stdout.
  void throw_if_output_failed() const;

  [[nodiscard]] bool json() const { return options_.json; }
  [[nodiscard]] bool quiet() const { return options_.quiet; }

 private:
  void move_line(const std::string& text);
  void print_out(const std::string& text);
  void print_err(std::string_view label, std::string_view color, const std::string& text);

  ReporterOptions options_;
  bool moving_line_ = false;  ///< progress is shown
  bool line_open_ = false;    ///< and stands on the terminal now
  bool color_ = false;
  int output_error_ = 0;  ///< errno of a failed write to stdout
  std::chrono::steady_clock::time_point last_progress_;
  std::vector<std::string> warnings_;
};

}  // namespace qmpbackup
