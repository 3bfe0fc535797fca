#include "qmpbackup/checksums.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <set>
#include <sstream>
#include <string>

#include "qmpbackup/files.hpp"

namespace qmpbackup {
namespace {

constexpr ByteCount kLargestFile = 64 * kMiB;
constexpr std::size_t kDigits = 64;

/// A name as sha256sum prints it.
std::string escaped(const std::string& file) {
  std::string name;
  for (const char c : file) {
    name += c == '\\' ? "\\\\" : c == '\n' ? "\\n" : std::string(1, c);
  }
  return name;
}

/// Checksums by escaped names, from lines as `sha256sum -c` takes them. Other lines are passed over.
std::map<std::string, std::string> read_checksums(const ChainFiles& files) {
  std::map<std::string, std::string> checksums;
  std::istringstream text(read_file_if_there(files.checksums_path(), kLargestFile).value_or(""));
  for (std::string line; std::getline(text, line);) {
    line.erase(0, line.starts_with('\\') ? 1 : 0);
    if (line.ends_with('\r')) {
      line.pop_back();
    }
    std::string sum = line.substr(0, kDigits);
    std::transform(sum.begin(), sum.end(), sum.begin(), [](unsigned char c) { return std::tolower(c); });
    const std::string between = line.size() > kDigits ? line.substr(kDigits, 2) : "";
    if (sum.find_first_not_of("0123456789abcdef") != std::string::npos || (between != "  " && between != " *")) {
      continue;
    }
    const std::string name = line.substr(kDigits + 2);
    checksums[name.starts_with("./") ? name.substr(2) : name] = sum;
  }
  return checksums;
}

/// Levels that only the checksums know of.
void add_missing(std::vector<LevelView>& levels, const std::map<std::string, std::string>& checksums,
                 const ChainFiles& files) {
  std::set<Level> known;
  for (const LevelView& level : levels) {
    known.insert(level.record.level);
  }
  for (const auto& [name, sum] : checksums) {
    const auto level = files.level_of_file(name);
    if (level && known.insert(*level).second) {
      LevelView gone{record_from_file({*level}, files), false, files.level_path(*level),
                     fmt::format("{} is gone", name)};
      gone.record.time = levels.back().record.time;  // not before the level below, as far as it is known
      levels.push_back(std::move(gone));
    }
  }
  std::sort(levels.begin(), levels.end(),
            [](const LevelView& a, const LevelView& b) { return a.record.level < b.record.level; });
}

/// A level with others between it and the full that lies on the full by its link: a merge was killed, and they are in
/// the full by now, or its link is damaged. A checksum of the full would tell.
void note_killed_merge(std::vector<LevelView>& levels, const ChainOnDisk& chain, const ChainFiles& files) {
  if (levels.size() < 3 || levels.front().record.sha256 || levels[0].record.time <= levels[1].record.time) {
    return;  // a merged full is younger than what lay on the old one
  }
  for (std::size_t i = 2; i < levels.size(); ++i) {
    const LevelFile* file = chain.file_of(levels[i].record.level);
    if (file != nullptr && file->header && file->header->backing_name() == files.level_file(kFullLevel)) {
      levels[1].fault = fmt::format(
          "{} lies on the full: levels below it are in the full by now, or its link is damaged", levels[i].record.file);
    }
  }
}

/// No level is taken of a disk that has shrunk. A checksum would know better which of the two files is damaged.
void note_smaller_disks(std::vector<LevelView>& levels) {
  for (std::size_t i = 1; i < levels.size(); ++i) {
    if (!levels[i].fault && !levels[i].record.sha256 &&
        levels[i].record.virtual_size < levels[i - 1].record.virtual_size) {
      levels[i].fault = fmt::format("{} holds a smaller disk than the level below", levels[i].record.file);
    }
  }
}

/// Levels beyond an older copy of the manifest are of its chain where BASE.sha256, which tells the same of the levels
/// that the manifest knows, knows them too.
void note_unknown_levels(std::vector<LevelView>& levels, const std::map<std::string, std::string>& checksums,
                         const ChainFiles& files) {
  const LevelView* last = nullptr;
  for (const LevelView& level : levels) {
    last = level.from_manifest && (last == nullptr || level.record.sha256) ? &level : last;
  }
  const auto found = last == nullptr ? checksums.end() : checksums.find(escaped(last->record.file));
  const bool is_same_chain = found != checksums.end() && last->record.sha256 == found->second;
  for (LevelView& level : levels) {
    if (last != nullptr && !level.from_manifest && !level.fault && !(is_same_chain && level.record.sha256)) {
      level.fault = fmt::format("{} is neither in the manifest nor in {}: it may be of another chain",
                                level.record.file, files.checksums_path());
    }
  }
}

}  // namespace

std::optional<std::string> checksum_of(const ChainFiles& files, Level level) {
  const auto checksums = read_checksums(files);
  const auto found = checksums.find(escaped(files.level_file(level)));
  return found == checksums.end() ? std::nullopt : std::optional(found->second);
}

void write_checksums(const ChainFiles& files, const Manifest& manifest) {
  std::string text;
  for (const LevelRecord& record : manifest.levels) {
    if (record.sha256) {
      const std::string name = escaped(record.file);
      text += fmt::format("{}{}  {}\n", name == record.file ? "" : "\\", *record.sha256, name);
    }
  }
  if (!text.empty()) {
    write_durably(files.checksums_path(), text);
  }
}

std::vector<LevelView> view_with_checksums(const ChainOnDisk& chain, const ChainFiles& files) {
  std::vector<LevelView> levels = view_chain(chain, files);
  if (std::any_of(levels.begin(), levels.end(), [](const LevelView& level) { return !level.from_manifest; })) {
    const auto checksums = read_checksums(files);
    for (LevelView& level : levels) {
      const auto found = checksums.find(escaped(level.record.file));
      if (!level.from_manifest && found != checksums.end()) {
        level.record.sha256 = found->second;
      }
    }
    if (!levels.empty()) {
      add_missing(levels, checksums, files);
      note_smaller_disks(levels);
      note_killed_merge(levels, chain, files);
      note_unknown_levels(levels, checksums, files);
    }
  }
  return levels;
}

}  // namespace qmpbackup
