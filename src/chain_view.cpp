#include "qmpbackup/chain_view.hpp"

#include <fmt/format.h>

namespace qmpbackup {
namespace {

LevelRecord record_from_file(const LevelFile& file, const ChainFiles& files) {
  LevelRecord record;
  record.level = file.level;
  record.file = files.level_file(file.level);
  record.time = file.modified;
  record.virtual_size = file.header ? file.header->virtual_size : 0;
  record.file_size = file.file_size;
  record.compression = "unknown";
  return record;
}

}  // namespace

std::vector<LevelView> view_chain(const ChainOnDisk& chain, const ChainFiles& files) {
  std::vector<LevelView> views;
  if (chain.manifest && !chain.manifest->levels.empty()) {
    for (const LevelRecord& record : chain.manifest->levels) {
      views.push_back({record, true, fault_of_level(chain, files, record)});
    }
    return views;
  }
  if (chain.full_is_empty_image) {
    return views;
  }
  Level expected = kFullLevel;
  for (const LevelFile& file : chain.files) {
    LevelView view{record_from_file(file, files), false, std::nullopt};
    view.fault = file.level == expected ? fault_of_level(chain, files, view.record)
                                        : std::optional(fmt::format("{} is gone", files.level_file(expected)));
    expected = file.level.next();
    views.push_back(std::move(view));
  }
  return views;
}

std::optional<Level> newest_good(const std::vector<LevelView>& levels) {
  std::optional<Level> good;
  for (const LevelView& view : levels) {
    if (view.fault) {
      break;
    }
    good = view.record.level;
  }
  return good;
}

std::optional<Level> newest_at(const std::vector<LevelView>& levels, const std::string& utc) {
  std::optional<Level> found;
  for (const LevelView& view : levels) {
    if (view.record.time <= utc) {
      found = view.record.level;
    }
  }
  return found;
}

}  // namespace qmpbackup
