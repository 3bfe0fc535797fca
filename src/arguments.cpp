#include "qmpbackup/arguments.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "qmpbackup/errors.hpp"

namespace qmpbackup {
namespace {

constexpr std::array<std::string_view, 5> kWithValue{"socket", "backupFile", "deviceToBackup", "device", "inc"};
constexpr std::array<std::string_view, 2> kBool{"v", "cleanBitmap"};

template <class Names>
bool is_in(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// What strconv.ParseBool takes, which is what a Go flag takes.
std::string parse_bool(std::string_view name, std::string_view value) {
  static constexpr std::array<std::string_view, 6> kTrue{"1", "t", "T", "true", "TRUE", "True"};
  static constexpr std::array<std::string_view, 6> kFalse{"0", "f", "F", "false", "FALSE", "False"};
  if (is_in(kTrue, value)) {
    return "true";
  }
  if (is_in(kFalse, value)) {
    return "false";
  }
  throw UsageError(fmt::format("-{} takes true or false, not '{}'", name, value));
}

/// The Go tool would take it as a value. An empty variable before it is more likely than a name like this.
bool looks_like_option(std::string_view text) {
  const std::string_view name = text.substr(text.starts_with('-') ? 1 : 0, text.find('=') - 1);
  return text.starts_with("--") || (text.starts_with('-') && (is_in(kWithValue, name) || is_in(kBool, name)));
}

}  // namespace

std::vector<std::string> rewrite_arguments(const std::vector<std::string>& arguments) {
  std::vector<std::string> rewritten;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const std::size_t dashes = argument.starts_with("--") ? 2 : argument.starts_with("-") ? 1 : 0;
    const std::size_t equals = argument.find('=');
    const std::string name =
        dashes == 0 ? "" : argument.substr(dashes, equals == std::string::npos ? equals : equals - dashes);
    if (is_in(kWithValue, name)) {
      if (equals == std::string::npos && i + 1 == arguments.size()) {
        throw UsageError(fmt::format("-{} needs a value", name));
      }
      const std::string value = equals == std::string::npos ? arguments[++i] : argument.substr(equals + 1);
      if (equals == std::string::npos && looks_like_option(value)) {
        throw UsageError(fmt::format("-{} needs a value, and {} is an option", name, value),
                         fmt::format("was a variable empty? A value that begins so: -{}={}", name, value));
      }
      if (value.empty()) {
        throw UsageError(fmt::format("-{} is empty", name));
      }
      rewritten.push_back(fmt::format("--{}={}", name, value));
    } else if (is_in(kBool, name)) {
      const std::string value = equals == std::string::npos ? "true" : argument.substr(equals + 1);
      rewritten.push_back(fmt::format("--{}={}", name, parse_bool(name, value)));
    } else if (argument == "-help") {
      rewritten.emplace_back("--help");
    } else if (dashes == 1 && argument.size() > 2) {
      // CLI11 would take it apart into single letters.
      throw UsageError(fmt::format("unknown option '{}'", argument));
    } else {
      rewritten.push_back(argument);
    }
  }
  return rewritten;
}

std::string shell_quoted(const std::string& text) {
  const bool plain = !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("_-./:,+@%").find(c) != std::string_view::npos;
  });
  if (plain) {
    return text;
  }
  std::string quoted = "'";
  for (const char c : text) {
    quoted += c == '\'' ? "'\\''" : std::string(1, c);
  }
  return quoted + "'";
}

}  // namespace qmpbackup
