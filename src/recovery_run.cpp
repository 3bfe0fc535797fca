#include "qmpbackup/recovery_run.hpp"

#include <fmt/format.h>

#include "qmpbackup/backup_wait.hpp"
#include "qmpbackup/bitmap_marks.hpp"
#include "qmpbackup/chain_reader.hpp"
#include "qmpbackup/chain_view.hpp"
#include "qmpbackup/errors.hpp"
#include "qmpbackup/files.hpp"
#include "qmpbackup/level_bitmap.hpp"
#include "qmpbackup/level_finisher.hpp"
#include "qmpbackup/merge_finisher.hpp"
#include "qmpbackup/recovery.hpp"

namespace qmpbackup {
namespace {

/// Whether the pending level has its final name: known by its inode, or, where that was not kept (a copied folder, some
/// network file systems), by its content. An old full that has not moved away yet may have the same.
bool has_final_name(const ChainFiles& files, const Manifest& manifest) {
  const Pending& pending = *manifest.pending;
  const std::string path = files.level_path(pending.level);
  const auto info = regular_file_info(path);
  if (!info || info->is_link || !pending.verified || info->size != pending.verified->file_size) {
    return false;
  }
  const bool is_old = pending.archive && !manifest.levels.empty() &&
                      !exists(files.archived(*pending.archive).level_path(pending.level));
  return info->inode == pending.inode ||
         (!is_old && pending.verified->sha256 && sha256_of_file(path, [](ByteCount) {}) == *pending.verified->sha256);
}

RecoveryFacts look_for_facts(Session& session, const ChainFiles& files, const Manifest& manifest) {
  const Pending& pending = *manifest.pending;
  RecoveryFacts facts;
  facts.verified = pending.verified.has_value();
  const std::string partial = files.in_folder(pending.partial);
  const auto file = regular_file_info(partial);
  facts.partial_file = pending.verified ? file && file->size == pending.verified->file_size : exists(partial);
  facts.final_file = has_final_name(files, manifest);
  const VmState vm = look_at_vm(session);
  facts.job =
      marks_were_lost(vm.nodes, scratch_node(pending.chain)) ? JobFate::kFailed : fate_of(vm.find_job(pending.job));
  facts.target_node = vm.find_node(pending.node) != nullptr;
  return facts;
}

LevelRecord finish(Session& session, const ChainFiles& files, Manifest& manifest, Recovery decision) {
  if (decision == Recovery::kWait) {
    session.reporter.note(fmt::format("{}: an earlier run's backup of level {} still works: waiting for it",
                                      manifest.pending->device, level_name(manifest.pending->level)));
    wait_for_backups(session, {*manifest.pending});
    decision = Recovery::kFlush;
  }
  return finish_level(session, files, manifest, decision);
}

void undo(Session& session, const ChainFiles& files, Manifest& manifest) {
  const std::string level = level_name(manifest.pending->level);
  const std::string device = manifest.pending->device;
  undo_level(session, files, manifest);
  session.reporter.note(
      fmt::format("{}: an earlier run ended before level {} was complete: it was taken back", device, level));
}

std::optional<LevelRecord> resolve_pending(Session& session, const ChainFiles& files, Manifest& manifest) {
  const Recovery decision = decide_recovery(look_for_facts(session, files, manifest));
  switch (decision) {
    case Recovery::kUndo:
      undo(session, files, manifest);
      return std::nullopt;
    case Recovery::kWait:
    case Recovery::kFlush:
    case Recovery::kSync:
    case Recovery::kCommit:
      break;
  }
  const std::string device = manifest.pending->device;
  try {
    LevelRecord record = finish(session, files, manifest, decision);
    session.reporter.note(fmt::format("{}: level {} of an earlier run, from {}, is complete now", device,
                                      level_name(record.level), record.time));
    return record;
  } catch (const ConnectError&) {
    throw;
  } catch (const Error& error) {
    if (manifest.pending->verified) {
      throw;  // complete, but the commit could not be written: the next run repeats it
    }
    const bool by_signal = dynamic_cast<const Interrupted*>(&error) != nullptr;
    if (!by_signal) {
      session.reporter.warning(error.what());
    }
    undo(session, files, manifest);
    if (by_signal) {
      throw;
    }
    return std::nullopt;
  }
}

/// Partial files under this chain's names that no manifest entry names.
void remove_partials(Session& session, const ChainFiles& files, const std::vector<Level>& partials) {
  for (const Level level : partials) {
    if (exists(files.partial_path(level))) {
      remove_durably(files.partial_path(level));
      session.reporter.note(fmt::format("removed {} of an earlier run", files.partial_path(level)));
    }
  }
}

}  // namespace

std::optional<LevelRecord> recover_chain(Session& session, const ChainFiles& files) {
  if (!exists(files.manifest_path()) && exists(files.damaged_manifest_path())) {
    // Killed when it had put a damaged manifest aside, before its own was written.
    rename_durably(files.damaged_manifest_path(), files.manifest_path());
  }
  const ChainOnDisk chain = read_chain(session.loop, files);
  if (chain.manifest_state == ManifestState::kTooNew) {
    return std::nullopt;  // a newer program's work is not ours to judge
  }
  if (!chain.manifest) {
    remove_partials(session, files, chain.partials);
    return std::nullopt;
  }
  Manifest manifest = *chain.manifest;
  finish_merge(files, manifest);
  std::optional<LevelRecord> completed;
  if (manifest.pending) {
    refuse_other_vm(files.base(), manifest.pending->vm, look_at_vm(session).identity);
    completed = resolve_pending(session, files, manifest);
  }
  const EventLoop::Shield shield(session.loop);
  const VmState vm = look_at_vm(session);  // waits for a blockdev-create that works: see there
  if (file_beyond_manifest(chain, files)) {
    return completed;  // an older copy of the manifest: the bitmap that it does not know is that of a level
  }
  if (const LevelRecord* last = manifest.last(); last != nullptr &&
                                                 vm.find_job(level_job(manifest.chain, last->level)) &&
                                                 remove_adopted_bitmap(session, manifest)) {
    session.reporter.note(
        fmt::format("{}: removed the bitmap {} of an earlier run", manifest.device, kForeignBitmap.value));
  }
  for (const std::string& removed :
       remove_leftovers(session, chains_of(manifest), bitmaps_to_keep(manifest, vm.nodes))) {
    session.reporter.note(fmt::format("{}: removed the {} of an earlier run", manifest.device, removed));
  }
  remove_partials(session, files, chain.partials);
  return completed;
}

}  // namespace qmpbackup
