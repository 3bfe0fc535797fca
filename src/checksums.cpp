#include "qmpbackup/checksums.hpp"

#include <fmt/format.h>

#include <map>
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

/// Checksums by escaped names. Lines that sha256sum would not print are passed over.
std::map<std::string, std::string> read_checksums(const ChainFiles& files) {
  std::map<std::string, std::string> checksums;
  std::istringstream text(read_file_if_there(files.checksums_path(), kLargestFile).value_or(""));
  for (std::string line; std::getline(text, line);) {
    line.erase(0, line.starts_with('\\') ? 1 : 0);
    if (line.find_first_not_of("0123456789abcdef") == kDigits && line.substr(kDigits, 2) == "  ") {
      checksums[line.substr(kDigits + 2)] = line.substr(0, kDigits);
    }
  }
  return checksums;
}

}  // namespace

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
  if (chain.levels().empty()) {
    const auto checksums = read_checksums(files);
    for (LevelView& level : levels) {
      if (const auto found = checksums.find(escaped(level.record.file)); found != checksums.end()) {
        level.record.sha256 = found->second;
      }
    }
  }
  return levels;
}

}  // namespace qmpbackup
