#include "qmpbackup/reporter.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace qmpbackup {
namespace {

constexpr std::chrono::milliseconds kTerminalPace{200};
constexpr std::chrono::seconds kJsonPace{1};
constexpr std::size_t kUsualWidth = 80;

void write_line(std::FILE* stream, std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stream);
  std::fputc('\n', stream);
  std::fflush(stream);
}

std::string printable(std::string_view text) {
  std::string safe;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      safe += fmt::format("\\x{:02x}", byte);
    } else {
      safe += c;
    }
  }
  return safe;
}

std::size_t terminal_width() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : kUsualWidth;
}

bool colors_wanted() {
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  return ::isatty(STDERR_FILENO) == 1 && (no_color == nullptr || *no_color == '\0') &&
         !(term != nullptr && std::string_view(term) == "dumb");
}

std::string dump(const nlohmann::json& object) {
  return object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

Reporter::Reporter(const ReporterOptions& options) : options_(options), color_(colors_wanted()) {
  switch (options_.progress) {
    case ProgressMode::kAuto:
      moving_line_ = options_.json || (::isatty(STDERR_FILENO) == 1 && !options_.quiet);
      break;
    case ProgressMode::kAlways:
      moving_line_ = true;
      break;
    case ProgressMode::kNever:
      break;
  }
}

Reporter::~Reporter() {
  end_progress();
}

void Reporter::print_err(std::string_view label, std::string_view color, const std::string& text) {
  end_progress();
  const std::string_view on = color_ ? color : "";
  const std::string_view off = color_ && !color.empty() ? "\x1b[0m" : "";
  write_line(stderr, fmt::format("qmpbackup: {}{}{}{}", on, label, off, printable(text)));
}

void Reporter::warning(const std::string& text) {
  warnings_.push_back(text);
  print_err("warning: ", "\x1b[33m", text);
}

void Reporter::note(const std::string& text) {
  if (!options_.quiet) {
    print_err("", "", text);
  }
}

void Reporter::progress(const Progress& progress) {
  if (!moving_line_) {
    return;
  }
  const auto now = std::chrono::steady_clock::now();
  const bool at_end = progress.total() > 0 && progress.done() >= progress.total();
  if (options_.json) {
    if (at_end || now - last_progress_ >= kJsonPace) {
      last_progress_ = now;
      nlohmann::json status{{"message_type", "status"},
                            {"device", progress.device()},
                            {"bytes_done", progress.done()},
                            {"bytes_total", progress.total()},
                            {"bytes_per_second", progress.bytes_per_second()}};
      if (!progress.activity().empty()) {
        status["activity"] = progress.activity();
      }
      json_line(status);
    }
    return;
  }
  if (at_end || now - last_progress_ >= kTerminalPace) {
    last_progress_ = now;
    const std::string line = progress_line(progress, terminal_width() - 1);
    if (::isatty(STDERR_FILENO) == 1) {
      move_line(line);
    } else {
      write_line(stderr, printable(line));
    }
  }
}

void Reporter::passing(const std::string& text) {
  if (moving_line_ && !options_.json && ::isatty(STDERR_FILENO) == 1) {
    move_line(text);
  }
}

void Reporter::move_line(const std::string& text) {
  line_open_ = true;
  std::fputs(fmt::format("\r\x1b[K{}", printable(text)).c_str(), stderr);
  std::fflush(stderr);
}

void Reporter::end_progress() {
  if (line_open_) {
    std::fputs("\r\x1b[K", stderr);
    std::fflush(stderr);
    line_open_ = false;
  }
}

void Reporter::result(const std::vector<std::string>& lines, nlohmann::json summary) {
  if (options_.json) {
    summary["message_type"] = "summary";
    summary["warnings"] = warnings_;
    json_line(summary);
  } else if (!options_.quiet) {
    for (const std::string& text : lines) {
      line(text);
    }
  }
}

void Reporter::line(const std::string& text) {
  end_progress();
  print_out(printable(text));
}

void Reporter::json_line(const nlohmann::json& object) {
  print_out(dump(object));
}

void Reporter::print_out(const std::string& text) {
  errno = 0;
  write_line(stdout, text);
  if (std::ferror(stdout) != 0 && output_error_ == 0 && errno != EPIPE) {  // a reader that has seen enough is none
    output_error_ = errno;
  }
}

void Reporter::throw_if_output_failed() const {
  if (output_error_ != 0) {
    throw Error(fmt::format("what was asked for is done, but its result could not be written to standard output: {}",
                            std::strerror(output_error_)));
  }
}

void Reporter::planned(const nlohmann::json& command) {
  if (options_.json) {
    json_line({{"message_type", "plan"}, {"command", command}});
  } else {
    line(dump(command));
  }
}

void Reporter::error(int exit_code, const std::string& message, const std::string& hint) {
  print_err("error: ", "\x1b[31m", hint.empty() ? message : message + "; " + hint);
  if (options_.json) {
    json_line({{"message_type", "error"}, {"code", exit_code}, {"message", message}, {"hint", hint}});
  }
}

void Reporter::trace(std::string_view direction, std::string_view message) {
  end_progress();
  write_line(stderr, fmt::format("{} {}", direction, printable(message)));
}

}  // namespace qmpbackup
