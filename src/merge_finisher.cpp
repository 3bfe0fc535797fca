#include "qmpbackup/merge_finisher.hpp"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "qmpbackup/chain_on_disk.hpp"
#include "qmpbackup/checksums.hpp"
#include "qmpbackup/file_lock.hpp"
#include "qmpbackup/files.hpp"

namespace qmpbackup {
namespace {

/// Gives the level its final name, unless that was done before. Returns whether the file there is the one that was
/// committed.
bool put_in_place(const ChainFiles& files, const LevelRecord& record) {
  if (exists(files.partial_path(record.level))) {
    rename_durably(files.partial_path(record.level), files.level_path(record.level));
  }
  const auto info = regular_file_info(files.level_path(record.level));
  return info && info->size == record.file_size;
}

}  // namespace

void finish_merge(const ChainFiles& files, Manifest& manifest) {
  if (!manifest.pending_merge) {
    return;
  }
  // The order matters to whoever restores meanwhile with qemu-img alone. First the full: what the old levels lay over
  // it is what it holds itself. Then the next level's link past them, then they can go.
  const std::vector<LevelRecord>& levels = manifest.levels;
  const bool holds_all = put_in_place(files, levels.front()) && (levels.size() < 2 || put_in_place(files, levels[1]));
  const Level through = manifest.pending_merge->through;
  std::vector<Level> merged;  // none where a file is not the one that was committed: the next look at the chain says so
  for (const std::string& name : list_folder(files.folder())) {
    const auto level = files.level_of_file(name);
    if (holds_all && level && !level->is_full() && *level <= through) {
      merged.push_back(*level);
    }
  }
  std::sort(merged.rbegin(), merged.rend());  // from the top: what is still there restores
  for (const Level level : merged) {
    remove_durably(files.level_path(level));
  }
  try {
    write_checksums(files, manifest);
  } catch (const Error&) {  // no line is better than one of the old full; the next level writes all
    std::error_code ignored;
    std::filesystem::remove(files.checksums_path(), ignored);
  }
  manifest.pending_merge.reset();
  write_durably(files.manifest_path(), format_manifest(manifest));
  write_lock_note(files.lock_path(), with_newest_level(read_lock_note(files.lock_path()), manifest));
}

void finish_merge_if_possible(const ChainFiles& files) {
  const auto pending = [&]() -> std::optional<Manifest> {
    try {
      const auto text = read_file_if_there(files.manifest_path(), kLargestManifest);
      Manifest manifest = parse_manifest(text.value_or(""));
      return manifest.pending_merge ? std::optional(std::move(manifest)) : std::nullopt;
    } catch (const Error&) {
      return std::nullopt;  // the caller looks at it again, and says what is wrong
    }
  };
  if (!pending()) {
    return;
  }
  try {
    const FileLock lock(files.lock_path());
    if (auto manifest = pending()) {
      finish_merge(files, *manifest);
    }
  } catch (const ChainBusy&) {  // whoever holds it finishes it
  } catch (const FileError&) {  // not this user, or not on this file system
  }
}

}  // namespace qmpbackup
