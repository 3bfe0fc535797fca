#include "qmpbackup/chain_view.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "qmpbackup/arguments.hpp"
#include "qmpbackup/errors.hpp"

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

/// Whether no level has a time before the one below it. Times of files, where there is no manifest, may be anything.
bool times_ascend(const std::vector<LevelView>& levels) {
  return std::is_sorted(levels.begin(), levels.end(),
                        [](const LevelView& a, const LevelView& b) { return a.record.time < b.record.time; });
}

/// The newest level not after a point in time (RFC 3339 in UTC, compared as text); nothing when all are later.
std::optional<Level> newest_at(const std::vector<LevelView>& levels, const std::string& utc) {
  std::optional<Level> found;
  for (const LevelView& view : levels) {
    if (view.record.time <= utc) {
      found = view.record.level;
    }
  }
  return found;
}

/// The base of the newest earlier chain that begins not after `at`; empty where there is none.
std::string earlier_chain(const ChainOnDisk& chain, const ChainFiles& files, const std::string& at) {
  std::string found;
  for (const std::string& begun : chain.archives) {
    found = begun <= compact_time(at) ? begun : found;
  }
  return found.empty() ? found : files.archived(found).base();
}

Level level_at(const ChainOnDisk& chain, const ChainFiles& files, const std::vector<LevelView>& levels,
               const std::string& at) {
  if (!levels.front().from_manifest && !times_ascend(levels)) {
    throw ChainError(fmt::format("{} has no readable manifest, and its files' times are not in the order of its levels",
                                 files.base()),
                     "choose a level with -inc");
  }
  if (const auto found = newest_at(levels, at)) {
    return *found;
  }
  const std::string earlier = earlier_chain(chain, files, at);
  throw ChainError(fmt::format("no level of {} is as old as {}", files.base(), at),
                   fmt::format("the oldest is the full, from {}{}", levels.front().record.time,
                               earlier.empty() ? "" : "; an earlier chain: -backupFile " + shell_quoted(earlier)));
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
  for (const LevelRecord& record : chain.levels()) {
    add(record, true);
  }
  if (chain.full_is_empty_image || (!chain.levels().empty() && !file_beyond_manifest(chain, files))) {
    return views;
  }
  for (const LevelFile& file : chain.files) {
    if (below && file.level <= *below) {
      continue;
    }
    if (const auto missing = missing_below(chain, files, file, below)) {
      LevelRecord gone = record_from_file({*missing}, files);
      gone.time = views.empty() ? "" : views.back().record.time;  // not before that
      add(gone, false);
    }
    add(record_from_file(file, files), false);
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

ChainError no_chain_at(const ChainFiles& files) {
  const std::string& base = files.base();
  const std::string name = base.substr(base.rfind('/') + 1);
  const auto end = name.rfind('.', name.rfind('.') - 1);  // of "x" in "x.inc0.qcow2"
  const bool has_end = name.ends_with(".qcow2") && end != std::string::npos && end > 0;
  const std::string meant = has_end ? base.substr(0, base.size() - name.size() + end) : base;
  return ChainError(fmt::format("there is no chain at {}", base),
                    ChainFiles(meant).level_of_file(name)
                        ? fmt::format("give the name without {}: {}", name.substr(end), meant)
                        : "give the -backupFile that the backups were made with");
}

std::size_t level_to_restore(const ChainOnDisk& chain, const ChainFiles& files, const std::vector<LevelView>& levels,
                             std::optional<Level> wanted, const std::optional<std::string>& at) {
  if (levels.empty() && chain.manifest) {
    throw ChainError(fmt::format("{} has no level yet, and nothing restores from it", files.base()),
                     "its first full works now, or was not finished: run the backup again then");
  }
  if (levels.empty()) {
    throw no_chain_at(files);
  }
  const Level level = at ? level_at(chain, files, levels, *at) : wanted.value_or(levels.back().record.level);
  if (const auto index = index_of(levels, level)) {
    return *index;
  }
  const auto merged = chain.manifest ? chain.manifest->merged : std::nullopt;
  if (merged && level <= *merged) {
    throw ChainError(fmt::format("level {} of {} was merged into the full, which holds the disk as it was at {}",
                                 level_name(level), files.base(), level_name(*merged)),
                     "restore the full with -inc -1");
  }
  const bool is_pending = chain.manifest && chain.manifest->pending && chain.manifest->pending->level == level;
  throw ChainError(fmt::format("{} has no level {}", files.base(), level_name(level)),
                   is_pending
                       ? "its backup works now, or was ended early: the next backup completes it or takes it back"
                       : "see qmpbackup list -backupFile " + shell_quoted(files.base()));
}

}  // namespace qmpbackup
