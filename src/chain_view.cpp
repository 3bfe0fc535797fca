#include "qmpbackup/chain_view.hpp"

namespace qmpbackup {
std::vector<LevelView> view_chain(const ChainOnDisk& chain, const ChainFiles& files) {
  std::vector<LevelView> views;
  std::optional<Level> below;
  const auto add = [&](const LevelRecord& record, bool from_manifest) {
    views.push_back({record, from_manifest, fault_of_level(chain, files, record, below)});
    below = record.level;
  };
  if (!chain.levels().empty()) {
    for (const LevelRecord& record : chain.levels()) {
      add(record, true);
    }
  } else if (!chain.full_is_empty_image) {
    for (const LevelFile& file : chain.files) {
      add(record_from_file(file, files), false);
    }
  }
  return views;
}

std::optional<std::size_t> index_of(const std::vector<LevelView>& levels, Level level) {
  for (std::size_t i = 0; i < levels.size(); ++i) {
    if (levels[i].record.level == level) {
      return i;
    }
  }
  return std::nullopt;
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
