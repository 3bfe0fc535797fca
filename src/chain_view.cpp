#include "qmpbackup/chain_view.hpp"

#include <algorithm>

namespace qmpbackup {
namespace {

/// The level that `file` is on top of by its backing link, where that is gone. After a merge numbers have gaps, so that
/// the link alone tells.
std::optional<Level> missing_below(const ChainOnDisk& chain, const ChainFiles& files, const LevelFile& file,
                                   std::optional<Level> below) {
  if (!file.header) {
    return std::nullopt;
  }
  const auto link = files.level_of_file(file.header->backing_name());
  const bool between = link && *link < file.level && (!below || *below < *link);
  return between && chain.file_of(*link) == nullptr ? link : std::nullopt;
}

}  // namespace

std::vector<LevelView> view_chain(const ChainOnDisk& chain, const ChainFiles& files) {
  std::vector<LevelView> views;
  std::optional<Level> below;
  const auto add = [&](const LevelRecord& record, bool from_manifest) {
    const LevelFile* file = chain.file_of(record.level);
    views.push_back({record, from_manifest,
                     file == nullptr || file->elsewhere.empty() ? files.level_path(record.level) : file->elsewhere,
                     fault_of_level(chain, files, record, below)});
    below = record.level;
  };
  if (!chain.levels().empty()) {
    for (const LevelRecord& record : chain.levels()) {
      add(record, true);
    }
  } else if (!chain.full_is_empty_image) {
    for (const LevelFile& file : chain.files) {
      if (const auto missing = missing_below(chain, files, file, below)) {
        LevelRecord gone = record_from_file({*missing}, files);
        gone.time = views.empty() ? "" : views.back().record.time;  // not before that
        add(gone, false);
      }
      add(record_from_file(file, files), false);
    }
  }
  return views;
}

std::optional<std::string> file_beyond_manifest(const ChainOnDisk& chain, const ChainFiles& files) {
  if (chain.levels().empty() || chain.manifest->pending || chain.files.empty() ||
      chain.files.back().level < chain.manifest->next_level()) {
    return std::nullopt;
  }
  return files.level_file(chain.files.back().level);
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

void mark_levels_above_faults(std::vector<LevelView>& levels) {
  const LevelView* faulty = nullptr;
  for (LevelView& level : levels) {
    if (level.fault) {
      faulty = faulty == nullptr ? &level : faulty;
    } else if (faulty != nullptr) {
      level.fault = "needs " + level_name(faulty->record.level);
    }
  }
}

bool links_stay_in_folder(const ChainOnDisk& chain, const std::vector<LevelView>& levels) {
  return std::all_of(levels.begin(), levels.end(), [&](const LevelView& level) {
    const LevelFile* file = chain.file_of(level.record.level);
    if (file == nullptr || !file->header || !file->elsewhere.empty()) {
      return false;
    }
    const std::string& link = file->header->backing_file;
    const std::string name = file->header->backing_name();
    return link == "./" + name || (link == name && name.find(':') == std::string::npos);
  });
}

bool times_ascend(const std::vector<LevelView>& levels) {
  return std::is_sorted(levels.begin(), levels.end(),
                        [](const LevelView& a, const LevelView& b) { return a.record.time < b.record.time; });
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
