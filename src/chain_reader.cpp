#include "qmpbackup/chain_reader.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "qmpbackup/chain_view.hpp"
#include "qmpbackup/checksums.hpp"
#include "qmpbackup/errors.hpp"
#include "qmpbackup/file_lock.hpp"
#include "qmpbackup/files.hpp"
#include "qmpbackup/folders.hpp"
#include "qmpbackup/level_bitmap.hpp"
#include "qmpbackup/qemu_img.hpp"

namespace qmpbackup {
namespace {

enum class Unreadable { kThrow, kNote };

/// What a run under way names is removed when it is taken back, or moved to: it must be what such a run makes.
void refuse_foreign_names(const ChainFiles& files, const Manifest& manifest) {
  if (!manifest.pending) {
    return;
  }
  const Pending& run = *manifest.pending;
  if (run.partial != files.partial_file(run.level) ||
      (run.archive && !files.time_of_archive(fmt::format("{}.{}", files.name(), *run.archive)))) {
    throw ManifestDamaged("'pending' names what no run of this chain makes");
  }
}

void read_manifest(const ChainFiles& files, ChainOnDisk& chain) {
  std::optional<std::string> text;
  try {
    text = read_file_if_there(files.manifest_path(), kLargestManifest);
  } catch (const FileError&) {
    if (!is_folder(files.manifest_path())) {
      throw;
    }
    chain.manifest_state = ManifestState::kDamaged;
    chain.manifest_problem = "it is a folder";
  }
  if (!text) {
    return;
  }
  try {
    Manifest manifest = parse_manifest(*text);
    refuse_foreign_names(files, manifest);
    chain.manifest = std::move(manifest);
    chain.manifest_state = ManifestState::kGood;
  } catch (const ManifestTooNew& error) {
    chain.manifest_state = ManifestState::kTooNew;
    chain.manifest_problem = error.what();
  } catch (const ManifestDamaged& error) {
    chain.manifest_state = ManifestState::kDamaged;
    chain.manifest_problem = error.what();
    chain.lost_id = find_chain_id(*text);
  }
}

void read_header(const std::string& path, LevelFile& file) {
  // Our own files name their backing file right behind the header; others may do so further on, up to the cluster's
  // end.
  constexpr std::size_t kUsually = 4 * kKiB;
  file.header = parse_qcow2_header(read_front(path, kUsually));
  if (!file.header) {
    file.header = parse_qcow2_header(read_front(path, kQcow2HeaderBytes));
  }
}

LevelFile read_level(const std::string& path, Level level, Unreadable unreadable) {
  LevelFile file;
  file.level = level;
  try {
    if (const auto info = regular_file_info(path)) {
      file.file_size = info->size;
      file.modified = info->modified;
      file.is_link = info->is_link;
      file.others_may_write = info->others_may_write;
      read_header(path, file);
    }
  } catch (const FileError& error) {
    if (unreadable == Unreadable::kThrow) {
      throw;
    }
    file.unreadable = error.what();
  }
  return file;
}

/// Where a level of the manifest is, if not under its final name.
std::optional<std::string> place_elsewhere(const Manifest& manifest, const ChainFiles& files, Level level) {
  if (manifest.pending_merge && (level.is_full() || level == manifest.pending_merge->through.next())) {
    const std::string partial = files.partial_path(level);
    return exists(partial) ? std::optional(partial) : std::nullopt;
  }
  // The old levels get their names in the archive first. Then the new full takes the old one's name.
  if (manifest.pending && manifest.pending->archive && manifest.pending->verified) {
    const std::string archived = files.archived(*manifest.pending->archive).level_path(level);
    return exists(archived) ? std::optional(archived) : std::nullopt;
  }
  return std::nullopt;
}

/// An image without a single cluster. A full of an empty disk is none: its zero clusters count as present.
bool is_empty_image(EventLoop& loop, const ChainFiles& files, const LevelFile& full) {
  if (!full.header || !full.header->backing_file.empty()) {
    return false;
  }
  try {
    const ImageMap map = map_image(loop, files.level_path(kFullLevel));
    return map.present() == 0 && map.end() == full.header->virtual_size;
  } catch (const Interrupted&) {
    throw;
  } catch (const Error&) {
    return false;
  }
}

/// Whether the chain that the lock names is in the folder, or on its way into an archive. Else its files went elsewhere
/// and left the lock behind.
bool is_here(const ChainOnDisk& chain, const ChainFiles& files, const LockNote& note) {
  const auto newest = files.level_of_file(note.newest);
  return newest && (chain.file_of(*newest) != nullptr ||
                    std::any_of(chain.archives.begin(), chain.archives.end(), [&](const std::string& time) {
                      const auto text = read_file_if_there(files.archived(time).manifest_path(), kLargestManifest);
                      return text && find_chain_id(*text) == note.chain;
                    }));
}

bool has_checksum(EventLoop& loop, const std::string& path, const std::string& sha256) {
  return exists(path) && sha256_of_file(path, [&](ByteCount) { loop.poll(); }) == sha256;
}

/// Whether the manifest is not that of the files, but another chain's, or from before a merge: BASE.sha256 tells
/// otherwise of the full, and is right; or the lock names another chain, and is right: a chain that came in after that
/// was written has its own newest level.
bool is_not_of_the_files(EventLoop& loop, const ChainOnDisk& chain, const ChainFiles& files, const LockNote& note) {
  const Manifest& manifest = *chain.manifest;
  if (manifest.levels.empty() || manifest.pending_merge) {
    return false;
  }
  const LevelRecord& full = manifest.levels.front();
  const auto checksum = full.sha256 ? checksum_of(files, kFullLevel) : std::nullopt;
  if (checksum && checksum != full.sha256 && has_checksum(loop, files.level_path(kFullLevel), *checksum)) {
    return true;
  }
  const std::vector<ChainId> known = chains_of(manifest);
  if (!note.chain || std::find(known.begin(), known.end(), *note.chain) != known.end() ||
      !is_here(chain, files, note)) {
    return false;
  }
  const LevelRecord& last = manifest.levels.back();
  return fault_of_chain(chain, files) ||
         (last.sha256 && !has_checksum(loop, files.level_path(last.level), *last.sha256));
}

ChainOnDisk read_files(EventLoop& loop, const ChainFiles& files, Unreadable unreadable) {
  ChainOnDisk chain;
  read_manifest(files, chain);
  for (const std::string& name : list_folder(files.folder())) {
    if (const auto level = files.level_of_file(name)) {
      chain.files.push_back(read_level(files.level_path(*level), *level, unreadable));
    } else if (const auto partial = files.level_of_partial(name)) {
      chain.partials.push_back(*partial);
    } else if (const auto time = files.time_of_archive(name)) {
      chain.archives.push_back(*time);
    }
  }
  const auto by_level = [](const LevelFile& a, const LevelFile& b) { return a.level < b.level; };
  std::sort(chain.files.begin(), chain.files.end(), by_level);
  std::sort(chain.archives.begin(), chain.archives.end());
  if (chain.levels().empty() && chain.files.size() == 1 && chain.files.front().level.is_full()) {
    chain.full_is_empty_image = is_empty_image(loop, files, chain.files.front());
  }
  try {
    if (chain.manifest && is_not_of_the_files(loop, chain, files, read_lock_note(files.lock_path()))) {
      chain.manifest.reset();
      chain.manifest_state = ManifestState::kDamaged;
      chain.manifest_problem = "it is not that of the files: another chain's, or from before a merge";
    }
  } catch (const FileError&) {  // not known, then: whatever else reads that file says so
  }
  return chain;
}

}  // namespace

ChainOnDisk read_chain(EventLoop& loop, const ChainFiles& files) {
  ChainOnDisk chain = read_files(loop, files, Unreadable::kThrow);
  const LockNote note = read_lock_note(files.lock_path());
  chain.past = note.past;
  if (!chain.manifest && !chain.lost_id && is_here(chain, files, note)) {
    chain.lost_id = note.chain;
  }
  chain.was_ours = chain.manifest || chain.lost_id || exists(files.checksums_path());
  return chain;
}

ChainOnDisk read_chain_to_restore(EventLoop& loop, const ChainFiles& files) {
  ChainOnDisk chain = read_files(loop, files, Unreadable::kNote);
  if (file_beyond_manifest(chain, files) || chain.manifest_state == ManifestState::kDamaged) {
    // Or a run has committed since the manifest was read.
    chain = read_files(loop, files, Unreadable::kNote);
  }
  for (const LevelRecord& record : chain.levels()) {
    if (const auto path = place_elsewhere(*chain.manifest, files, record.level)) {
      std::erase_if(chain.files, [&](const LevelFile& file) { return file.level == record.level; });
      chain.files.push_back(read_level(*path, record.level, Unreadable::kNote));
      chain.files.back().elsewhere = *path;
    }
  }
  std::sort(chain.files.begin(), chain.files.end(),
            [](const LevelFile& a, const LevelFile& b) { return a.level < b.level; });
  return chain;
}

bool is_without_right(const ChainOnDisk& chain, const LevelView& level) {
  const LevelFile* file = chain.file_of(level.record.level);
  return file != nullptr && !file->unreadable.empty() && ::access(level.path.c_str(), R_OK) != 0;
}

void require_folder(const ChainFiles& files) {
  if (!is_folder(files.folder()) && exists(files.folder())) {
    throw ChainError(fmt::format("{} is no folder", files.folder()), "give another -backupFile, or move it away");
  }
  if (!is_folder(files.folder())) {
    throw ChainError(fmt::format("there is no folder {}", files.folder()), "create it, or mount what should be there");
  }
}

TargetFolder inspect_target(const ChainFiles& files) {
  const std::string folder = files.folder();
  TargetFolder target;
  target.exists = is_folder(folder);
  target.absolute_path = std::filesystem::absolute(folder).string();
  target.writable = target.exists && is_writable_folder(folder);
  if (target.writable) {
    target.takes_direct_io = takes_direct_io(folder, files.lock_path());
    target.free_bytes = free_bytes(folder);
  }
  return target;
}

}  // namespace qmpbackup
