#include "qmpbackup/level_finisher.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "qmpbackup/backup_commands.hpp"
#include "qmpbackup/chain_reader.hpp"
#include "qmpbackup/checksums.hpp"
#include "qmpbackup/errors.hpp"
#include "qmpbackup/file_lock.hpp"
#include "qmpbackup/files.hpp"
#include "qmpbackup/level_bitmap.hpp"
#include "qmpbackup/qemu_img.hpp"

namespace qmpbackup {
namespace {

/// Step 6. The only moment at which QEMU says whether everything reached the file: blockdev-del swallows a failed
/// flush.
void flush_target(Session& session, const Pending& pending) {
  if (session.features.reopen) {
    try {
      session.client.execute(reopen_read_only(pending));
    } catch (const QmpError& error) {
      throw Error(fmt::format("{}: the backup could not be written out: {}", pending.device, error.what()),
                  "check the target's storage and free space, then try again");
    }
  }
  session.client.execute(delete_node(target_node(pending.chain)));
  session.client.execute(delete_node(target_file_node(pending.chain)));
}

/// Step 7. Throws unless the partial file is complete and on disk.
LevelRecord verify_partial(Session& session, const ChainFiles& files, const Pending& pending) {
  const std::string partial = files.in_folder(pending.partial);
  sync_file(partial);

  std::optional<Job> job;
  for (const Job& candidate : query_jobs(session.client)) {
    if (candidate.id == pending.job) {
      job = candidate;
    }
  }
  if (fate_of(job ? &*job : nullptr) != JobFate::kSucceeded) {
    throw Error(fmt::format("{}: QEMU no longer knows the job {}", pending.device, pending.job.value), "try again");
  }
  std::optional<ImageRun> check;  // beside the map and the checksum
  if (session.checksums) {
    check.emplace(session.loop, ImageRun::Kind::kCheck, partial, pending.virtual_size);
  }
  const ImageMap map = map_image(session.loop, partial);
  if (map.end() != pending.virtual_size ||
      !covers(map.present(), job->current, pending.virtual_size, pending.cluster_size)) {
    throw Error(fmt::format("{}: {} is not complete: it holds {} of {} bytes", pending.device, pending.partial,
                            map.present(), job->current),
                "check the target's storage, then try again");
  }
  if (!session.features.reopen) {
    session.reporter.warning(fmt::format(
        "{}: this QEMU cannot say whether it wrote everything (no blockdev-reopen): reading the level back instead",
        pending.device));
    read_image(session.loop, partial, pending.virtual_size);
  }

  LevelRecord record;
  record.level = pending.level;
  record.file = files.level_file(pending.level);
  record.time = pending.started;
  record.virtual_size = pending.virtual_size;
  record.bytes_copied = job->current;
  record.compression = pending.compression;
  record.bitmap = pending.bitmap;
  record.granularity = pending.granularity;
  record.marks = pending.marks;
  record.marks_seed = pending.marks_seed;
  record.qemu = session.client.qemu_version();
  const auto info = regular_file_info(partial);
  record.file_size = info ? info->size : 0;
  if (session.checksums) {
    Progress progress(pending.device, "checksum", std::chrono::steady_clock::now());
    record.sha256 = sha256_of_file(partial, [&](ByteCount done) {
      progress.update(done, record.file_size, std::chrono::steady_clock::now());
      session.reporter.progress(progress);
      session.loop.poll();
    });
    check->finish();
    record.checked = true;
  }
  return record;
}

/// Moves the chain that a new full replaces into its archive folder. At every moment all its levels are in one of the
/// two folders, so that they restore. Can be repeated after a kill at any point, as long as the new level's partial
/// file is there: then every level file under a final name is an old one.
void archive_old_chain(const ChainFiles& files, const Manifest& manifest) {
  const ChainFiles archive = files.archived(*manifest.pending->archive);
  make_folder_durably(archive.folder());
  if (!manifest.levels.empty()) {
    Manifest old = manifest;
    old.pending.reset();
    write_durably(archive.manifest_path(), format_manifest(old));
  } else if (exists(files.damaged_manifest_path())) {
    rename_durably(files.damaged_manifest_path(), archive.manifest_path());
  }
  std::vector<std::string> levels;
  for (const std::string& name : list_folder(files.folder())) {
    if (files.level_of_file(name)) {
      link_or_move_durably(files.in_folder(name), archive.in_folder(name));
      levels.push_back(name);
    }
  }
  if (exists(files.checksums_path())) {
    rename_durably(files.checksums_path(), archive.checksums_path());
  }
  for (const std::string& name : levels) {
    remove_durably(files.in_folder(name));
  }
}

/// The verified file may have been removed or replaced since.
void refuse_other_content(const std::string& path, const Pending& pending) {
  const auto file = regular_file_info(path);
  if (!file || file->size != pending.verified->file_size) {
    throw Error(fmt::format("{}: {} is not the file that was written", pending.device, path),
                "find out what removed or replaced it, and try again");
  }
}

/// Step 8. Touches files alone. Repeated after a kill at any point, it ends in the same state.
void commit(const ChainFiles& files, Manifest& manifest) {
  const Pending pending = *manifest.pending;
  const std::string partial = files.in_folder(pending.partial);
  if (exists(partial)) {
    refuse_other_content(partial, pending);
    if (pending.archive && !is_same_file(partial, files.level_path(pending.level))) {  // else: done, it has both names
      archive_old_chain(files, manifest);
    }
    rename_to_new_durably(partial, files.level_path(pending.level));
  }
  refuse_other_content(files.level_path(pending.level), pending);
  Manifest next = manifest;
  if (pending.archive && next.chain != pending.chain) {
    next.replaces.push_back(next.chain);
    next.chain = pending.chain;
    next.device = pending.device;
    next.vm = pending.vm;
    next.levels.clear();
    next.merged.reset();
  }
  next.stored_attempts = 0;
  next.levels.push_back(*pending.verified);
  next.pending.reset();
  write_lock_note(files.lock_path(), with_newest_level(read_lock_note(files.lock_path()), next));
  write_durably(files.manifest_path(), format_manifest(next));  // the commit point
  manifest = std::move(next);
}

enum class EmptyImage { kStays, kGoes };

/// Nothing is overwritten: a file may have come under the level's final name since the run was planned. An empty image
/// that the operator made beforehand is meant to be replaced, and an old chain moves away.
void refuse_file_in_the_way(Session& session, const ChainFiles& files, const Pending& pending, EmptyImage empty_image) {
  const std::string path = files.level_path(pending.level);
  if (pending.archive || !exists(path) || !exists(files.in_folder(pending.partial))) {
    return;
  }
  if (read_chain(session.loop, files).full_is_empty_image) {
    if (empty_image == EmptyImage::kGoes) {
      remove_durably(path);
    }
  } else if (!is_same_file(path, files.in_folder(pending.partial))) {  // else: killed between its two names
    throw ChainError(fmt::format("{}: {} appeared during the backup, and nothing is overwritten", pending.device, path),
                     "find out what made it; move it away and try again");
  }
}

/// What the level is to lie on may have been removed or changed since the run was planned.
void refuse_broken_chain(Session& session, const ChainFiles& files, const Pending& pending) {
  if (pending.level.is_full()) {
    return;
  }
  const ChainOnDisk chain = read_chain(session.loop, files);
  if (const auto fault = fault_of_chain(chain, files)) {
    throw NewFullNeeded(fmt::format("{}: the chain was damaged during the backup: {}", pending.device, *fault),
                        "put the file back and try again, or take a new full with -inc auto");
  }
}

/// Before each step that another run would undo, or that would undo another run's.
void require_locks(const Session& session) {
  for (const FileLock& lock : session.locks) {
    lock.require_held();
  }
}

/// A guest that ran when the level began, and stands still because a write to the target failed.
void continue_guest(Session& session, const Pending& pending) {
  if (pending.was_running && query_status(session.client) == "io-error") {
    session.client.execute({"cont"});
  }
}

bool has_bitmap(const std::vector<Node>& nodes, const BitmapName& bitmap) {
  return std::any_of(nodes.begin(), nodes.end(), [&](const Node& node) { return node.find_bitmap(bitmap) != nullptr; });
}

/// Whether the bitmap of the run in `pending`, whose job is gone, came back with the disk's image: QEMU has ended
/// since. A copy of the image that was made in between has that bitmap too. Rolled back to the copy, the disk must not
/// pass its bitmap for that of the next attempt, which knows nothing of what was written between the two.
bool was_stored(const std::vector<Node>& nodes, const Manifest& manifest) {
  const Pending& pending = *manifest.pending;
  if (pending.chain != manifest.chain || manifest.levels.empty() || pending.adopts) {
    return false;  // the next attempt has another chain's id
  }
  return has_bitmap(nodes, pending.bitmap);
}

/// Whether the manifest on disk says that the pending level is complete, though writing that failed: it has its name,
/// and only that this lasts is not sure. Also where that cannot be read.
bool says_verified(const ChainFiles& files) {
  try {
    const auto text = read_file_if_there(files.manifest_path(), kLargestManifest);
    const Manifest there = parse_manifest(text.value_or(""));
    return there.pending && there.pending->verified;
  } catch (const Error&) {
    return true;
  }
}

[[noreturn]] void throw_not_in_the_chain(const Pending& pending, const FileError& error) {
  throw Error(fmt::format("{}: level {} is complete, but could not be put into the chain: {}", pending.device,
                          level_name(pending.level), error.what()),
              fmt::format("{}: the next run puts it there", error.hint()));
}

}  // namespace

LevelRecord finish_level(Session& session, const ChainFiles& files, Manifest& manifest, Recovery from) {
  continue_guest(session, *manifest.pending);
  if (from == Recovery::kFlush) {
    sync_file(files.in_folder(manifest.pending->partial));  // QEMU and its guest would stand still while it waits
    flush_target(session, *manifest.pending);
  }
  if (from != Recovery::kCommit) {
    refuse_file_in_the_way(session, files, *manifest.pending, EmptyImage::kStays);
    refuse_broken_chain(session, files, *manifest.pending);
    Manifest verified = manifest;
    verified.pending->verified = verify_partial(session, files, *manifest.pending);
    require_locks(session);
    verified.pending->inode = regular_file_info(files.in_folder(manifest.pending->partial)).value_or(FileInfo{}).inode;
    try {
      write_durably(files.manifest_path(), format_manifest(verified));
    } catch (const FileError& error) {
      if (!says_verified(files)) {
        throw;
      }
      manifest = std::move(verified);  // not to be taken back any more: a later run would commit it
      throw_not_in_the_chain(*manifest.pending, error);
    }
    manifest = std::move(verified);
  }
  const EventLoop::Shield shield(session.loop);  // a few renames: a signal waits for them
  require_locks(session);
  refuse_file_in_the_way(session, files, *manifest.pending, EmptyImage::kGoes);
  try {
    commit(files, manifest);
  } catch (const FileError& error) {
    throw_not_in_the_chain(*manifest.pending, error);
  }
  try {
    write_checksums(files, manifest);
  } catch (const Error& error) {
    session.reporter.warning(fmt::format("the level is committed, but not its line for sha256sum: {}", error.what()));
  }
  return manifest.levels.back();
}

bool remove_adopted_bitmap(Session& session, const Manifest& manifest) {
  const std::vector<LevelRecord>& levels = manifest.levels;
  bool removed = false;
  if (levels.size() < 2 || levels[levels.size() - 2].bitmap != kForeignBitmap) {
    return removed;
  }
  for (const Node& node : query_nodes(session)) {
    if (node.find_bitmap(kForeignBitmap) != nullptr && node.find_bitmap(levels.back().bitmap) != nullptr) {
      session.client.execute(remove_bitmap(node.name, kForeignBitmap));
      removed = true;
    }
  }
  return removed;
}

void clean_up_after_commit(Session& session, const Manifest& manifest) {
  const EventLoop::Shield shield(session.loop);
  try {
    remove_adopted_bitmap(session, manifest);  // before the job goes, by which recovery knows that this was not done
    remove_leftovers(session, chains_of(manifest), bitmaps_to_keep(manifest, {}));
  } catch (const std::exception& error) {
    session.reporter.warning(
        fmt::format("{}: the level is committed, but QEMU was not cleaned up: {}; the next run does it",
                    manifest.device, error.what()));
  }
}

void undo_level(Session& session, const ChainFiles& files, Manifest& manifest) {
  const EventLoop::Shield shield(session.loop);
  const Pending pending = *manifest.pending;
  const std::string partial = files.in_folder(pending.partial);
  const bool answers = storage_answers(session, partial);
  if (answers) {  // else no other run can work there either
    require_locks(session);
  }
  const bool had_job = !remove_jobs(session, {pending.chain}).empty();
  continue_guest(session, pending);
  if (!answers) {
    throw FileError(fmt::format("the storage of {} does not answer", partial));
  }
  const std::vector<Node> nodes = look_at_vm(session).nodes;
  if (!had_job && was_stored(nodes, manifest)) {
    discard_durably(partial);  // it may be what fills the storage
    ++manifest.stored_attempts;
    write_durably(files.manifest_path(), format_manifest(manifest));  // before that can be seen no more
  }
  remove_leftovers(session, {pending.chain}, bitmaps_kept_by_undo(manifest, nodes));
  const VmState left = look_at_vm(session);
  if (left.find_node(pending.node) != nullptr) {
    remove_durably(partial);
  } else {
    discard_durably(partial);
  }
  manifest.pending.reset();
  if (!manifest.levels.empty() && !pending.adopts) {
    write_durably(files.manifest_path(), format_manifest(manifest));
  } else {
    remove_durably(files.manifest_path());
    if (exists(files.damaged_manifest_path())) {
      rename_durably(files.damaged_manifest_path(), files.manifest_path());
    }
  }
  const std::vector<Disk> disks = list_disks(left);
  const bool disk_is_there =
      std::any_of(disks.begin(), disks.end(), [&](const Disk& disk) { return disk.label == pending.device; });
  // Below a snapshot a bitmap cannot be removed yet; a disk that is away may come back with it.
  if (!has_bitmap(left.nodes, pending.bitmap) && (had_job || disk_is_there)) {
    write_lock_note(files.lock_path(), without_past(read_lock_note(files.lock_path()), pending.chain));
  }
}

}  // namespace qmpbackup
