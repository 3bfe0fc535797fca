#include "qmpbackup/chain_files.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "qmpbackup/errors.hpp"

namespace qmpbackup {
namespace {

constexpr std::string_view kPartialSuffix = ".partial";
constexpr std::size_t kLongestName = 255;   // NAME_MAX of Linux file systems
constexpr std::size_t kLongestSuffix = 48;  // .inc2147483647.qcow2.partial, and a temporary suffix on top of it

bool is_utf8(const std::string& text) {
  try {
    (void)nlohmann::json(text).dump();
    return true;
  } catch (const nlohmann::json::type_error&) {
    return false;
  }
}

}  // namespace

ChainFiles::ChainFiles(std::string base) : base_(std::move(base)) {
  const std::string last = name();
  if (last.empty()) {
    throw UsageError(fmt::format("-backupFile '{}' names no file", base_), "give a path such as /backup/drive0");
  }
  if (base_.find('\0') != std::string::npos || !is_utf8(base_)) {
    throw UsageError("-backupFile is not valid UTF-8", "QEMU's protocol carries UTF-8 names only");
  }
  if (last.size() + kLongestSuffix > kLongestName) {
    throw UsageError(fmt::format("-backupFile has a last part of {} bytes; {} are the most", last.size(),
                                 kLongestName - kLongestSuffix),
                     "choose a shorter name");
  }
}

std::string ChainFiles::folder() const {
  const auto slash = base_.rfind('/');
  if (slash == std::string::npos) {
    return ".";
  }
  return slash == 0 ? "/" : base_.substr(0, slash);
}

std::string ChainFiles::name() const {
  return base_.substr(base_.rfind('/') + 1);
}

std::string ChainFiles::in_folder(std::string_view file) const {
  return base_.substr(0, base_.rfind('/') + 1) + std::string(file);
}

std::string ChainFiles::level_file(Level level) const {
  return fmt::format("{}.{}.qcow2", name(), level_name(level));
}
std::string ChainFiles::level_path(Level level) const {
  return in_folder(level_file(level));
}
std::string ChainFiles::partial_file(Level level) const {
  return level_file(level) + std::string(kPartialSuffix);
}
std::string ChainFiles::partial_path(Level level) const {
  return in_folder(partial_file(level));
}
std::string ChainFiles::manifest_path() const {
  return base_ + ".chain.json";
}
std::string ChainFiles::damaged_manifest_path() const {
  return manifest_path() + ".damaged";
}
std::string ChainFiles::lock_path() const {
  return base_ + ".lock";
}
std::string ChainFiles::checksums_path() const {
  return base_ + ".sha256";
}

ChainFiles ChainFiles::archived(std::string_view compact_time) const {
  return ChainFiles(fmt::format("{}.{}/{}", base_, compact_time, name()));
}

bool ChainFiles::is_archived() const {
  const std::string above = folder();
  return time_of_archive(std::string_view(above).substr(above.rfind('/') + 1)).has_value();
}

std::string ChainFiles::backing_link(Level below) const {
  const std::string file = level_file(below);
  return file.find(':') == std::string::npos ? file : "./" + file;
}

std::optional<std::string> ChainFiles::time_of_archive(std::string_view folder_name) const {
  const std::string front = name() + ".";
  constexpr std::string_view kPattern = "00000000T000000Z";  // "-2" may follow
  if (!folder_name.starts_with(front)) {
    return std::nullopt;
  }
  const std::string_view time = folder_name.substr(front.size());
  if (!begins_like(time, kPattern)) {
    return std::nullopt;
  }
  const std::string_view rest = time.substr(kPattern.size());
  const bool numbered = rest.size() > 1 && rest[0] == '-' && rest.find_first_not_of("0123456789", 1) == rest.npos;
  return rest.empty() || numbered ? std::optional(std::string(time)) : std::nullopt;
}

std::optional<std::string> ChainFiles::name_of_chain(std::string_view file) {
  for (const std::string_view suffix : {".chain.json", ".full.qcow2"}) {
    if (file.ends_with(suffix) && file.size() > suffix.size()) {
      return std::string(file.substr(0, file.size() - suffix.size()));
    }
  }
  return std::nullopt;
}

std::optional<Level> ChainFiles::level_of_file(std::string_view file) const {
  const std::string front = name() + ".";
  constexpr std::string_view kBack = ".qcow2";
  if (!file.starts_with(front) || !file.ends_with(kBack) || file.size() < front.size() + kBack.size()) {
    return std::nullopt;
  }
  return parse_level_name(file.substr(front.size(), file.size() - front.size() - kBack.size()));
}

std::optional<Level> ChainFiles::level_of_partial(std::string_view file) const {
  if (!file.ends_with(kPartialSuffix)) {
    return std::nullopt;
  }
  file.remove_suffix(kPartialSuffix.size());
  return level_of_file(file);
}

}  // namespace qmpbackup
