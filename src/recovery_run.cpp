#include "qmpbackup/recovery_run.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "qmpbackup/backup_commands.hpp"
#include "qmpbackup/backup_wait.hpp"
#include "qmpbackup/bitmap_marks.hpp"
#include "qmpbackup/chain_reader.hpp"
#include "qmpbackup/chain_view.hpp"
#include "qmpbackup/checksums.hpp"
#include "qmpbackup/errors.hpp"
#include "qmpbackup/file_lock.hpp"
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

LevelRecord finish(Session& session, const ChainFiles& files, Manifest& manifest, Recovery decision,
                   std::optional<ByteCount> speed_bytes_per_second) {
  if (decision == Recovery::kWait) {
    session.reporter.note(fmt::format("{}: an earlier run's backup of level {} still works: waiting for it",
                                      manifest.pending->device, level_name(manifest.pending->level)));
    if (speed_bytes_per_second) {
      try_execute(session.client, set_speed(manifest.pending->job, *speed_bytes_per_second));
    }
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

std::optional<LevelRecord> resolve_pending(Session& session, const ChainFiles& files, Manifest& manifest,
                                           std::optional<ByteCount> speed_bytes_per_second) {
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
  try {
    return finish(session, files, manifest, decision, speed_bytes_per_second);
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

std::string what_to_call(const ChainOnDisk& chain, const ChainFiles& files) {
  return chain.manifest ? chain.manifest->device : files.base();
}

/// The chains of which there may be something in QEMU besides those that the manifest answers for.
std::vector<PastChain> past_chains(const ChainOnDisk& chain) {
  std::vector<ChainId> known = chain.manifest ? chains_of(*chain.manifest) : std::vector<ChainId>();
  if (chain.lost_id) {
    known.push_back(*chain.lost_id);
  }
  std::vector<PastChain> past = chain.past;
  std::erase_if(past, [&](const PastChain& candidate) {
    return std::find(known.begin(), known.end(), candidate.chain) != known.end();
  });
  return past;
}

/// The bitmaps that are no leftovers: what the manifest keeps; all of a chain whose manifest is gone, or an older copy:
/// when the newest one is put back, the chain goes on from one of them; and of a past one what its run cannot have
/// made.
std::vector<BitmapName> bitmaps_that_stay(const ChainOnDisk& chain, const ChainFiles& files,
                                          const std::vector<Node>& nodes) {
  const bool is_older_copy = chain.manifest && file_beyond_manifest(chain, files);
  const std::vector<PastChain> past = past_chains(chain);
  const auto stays = [&](const ChainLevel& named) {
    return named.chain == chain.lost_id || (is_older_copy && named.chain == chain.manifest->chain) ||
           std::any_of(past.begin(), past.end(), [&](const PastChain& candidate) {
             return candidate.chain == named.chain && candidate.begun && *candidate.begun != named.level;
           });
  };
  std::vector<BitmapName> keep = chain.manifest ? bitmaps_to_keep(*chain.manifest, nodes) : std::vector<BitmapName>();
  for (const Node& node : nodes) {
    for (const Bitmap& bitmap : node.bitmaps) {
      if (const auto named = parse_chain_level(bitmap.name.value); named && stays(*named)) {
        keep.push_back(bitmap.name);
      }
    }
  }
  return keep;
}

/// What a run did not come to that was killed when it had committed its level. Its job tells; returns that level.
std::optional<LevelRecord> finish_clean_up(Session& session, const Manifest& manifest) {
  const LevelRecord* last = manifest.last();
  const std::vector<Job> jobs = query_jobs(session.client);
  if (last == nullptr || std::none_of(jobs.begin(), jobs.end(), [&](const Job& job) {
        return job.id == level_job(manifest.chain, last->level);
      })) {
    return std::nullopt;
  }
  if (remove_adopted_bitmap(session, manifest)) {
    session.reporter.note(
        fmt::format("{}: removed the bitmap {} of an earlier run", manifest.device, kForeignBitmap.value));
  }
  return *last;
}

/// The chain that moved into an archive, as far as its manifest is that of the files there.
std::optional<ChainId> chain_in(const ChainFiles& archive) {
  try {
    const Manifest manifest =
        parse_manifest(read_file_if_there(archive.manifest_path(), kLargestManifest).value_or(""));
    const LevelRecord* last = manifest.last();
    const auto file = last == nullptr ? std::nullopt : regular_file_info(archive.level_path(last->level));
    const bool is_theirs = file && file->size == last->file_size && last->sha256 &&
                           checksum_of(archive, last->level) == last->sha256 &&
                           !read_lock_note(archive.lock_path()).chain;  // else it goes on there
    return is_theirs ? std::optional(manifest.chain) : std::nullopt;
  } catch (const Error&) {
    return std::nullopt;
  }
}

/// Earlier chains of this base whose bitmaps came back with an older copy of the disk's image.
std::vector<ChainId> chains_that_came_back(const ChainOnDisk& chain, const ChainFiles& files,
                                           const std::vector<ChainId>& known, const std::vector<Node>& nodes) {
  std::vector<ChainId> found;
  const bool has_unknown = std::any_of(nodes.begin(), nodes.end(), [&](const Node& node) {
    return std::any_of(node.bitmaps.begin(), node.bitmaps.end(), [&](const Bitmap& bitmap) {
      const auto named = parse_chain_level(bitmap.name.value);
      return named && std::find(known.begin(), known.end(), named->chain) == known.end();
    });
  });
  for (const std::string& time : has_unknown ? chain.archives : std::vector<std::string>()) {
    if (const auto id = chain_in(files.archived(time))) {
      found.push_back(*id);
    }
  }
  return found;
}

/// What earlier runs left in QEMU of the chains that are, or were to be, in this folder.
void remove_what_is_left(Session& session, const ChainOnDisk& chain, const ChainFiles& files) {
  std::vector<ChainId> chains = chain.manifest ? chains_of(*chain.manifest) : std::vector<ChainId>();
  if (chain.lost_id) {
    chains.push_back(*chain.lost_id);
  }
  for (const PastChain& past : past_chains(chain)) {
    chains.push_back(past.chain);
  }
  const VmState vm = look_at_vm(session);  // waits for a blockdev-create that works: see there
  for (const ChainId& archived : chains_that_came_back(chain, files, chains, vm.nodes)) {
    chains.push_back(archived);
  }
  const bool may_have_stopped_it = std::any_of(vm.jobs.begin(), vm.jobs.end(), [&](const Job& job) {
    const auto named = parse_chain_level(job.id.value);
    return named && (!job.is_concluded() || job.error) &&
           std::find(chains.begin(), chains.end(), named->chain) != chains.end();
  });
  const std::vector<std::string> all = remove_leftovers(session, chains, bitmaps_that_stay(chain, files, vm.nodes));
  if (may_have_stopped_it && vm.status == "io-error") {
    session.client.execute({"cont"});  // a guest that ran, and stood still because a write to the target failed
  }
  for (const std::string& removed : all) {
    session.reporter.note(fmt::format("{}: removed the {} of an earlier run", what_to_call(chain, files), removed));
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

std::optional<LevelRecord> recover_chain(Session& session, const ChainFiles& files,
                                         std::optional<ByteCount> speed_bytes_per_second) {
  if (!exists(files.manifest_path()) && exists(files.damaged_manifest_path())) {
    // Killed when it had put a damaged manifest aside, before its own was written.
    rename_durably(files.damaged_manifest_path(), files.manifest_path());
  }
  ChainOnDisk chain = read_chain(session.loop, files);
  if (chain.manifest_state == ManifestState::kTooNew) {
    return std::nullopt;  // a newer program's work is not ours to judge
  }
  std::optional<LevelRecord> completed;
  if (chain.manifest && (chain.manifest->pending_merge || chain.manifest->pending)) {
    finish_merge(files, *chain.manifest);
    if (chain.manifest->pending) {
      const std::string partial = files.in_folder(chain.manifest->pending->partial);
      if (!storage_answers(session, partial)) {
        throw FileError(fmt::format("the storage of {} does not answer", partial),
                        "see what it waits for, then try again");
      }
      const VmState vm = look_at_vm(session);
      refuse_other_vm(files.base(), chain.manifest->pending->vm, vm.identity);
      if (const auto problem = migration_problem(vm)) {
        throw ChainError(fmt::format("{}: {}", chain.manifest->pending->device, problem->text), problem->hint);
      }
      completed = resolve_pending(session, files, *chain.manifest, speed_bytes_per_second);
    }
    chain = read_chain(session.loop, files);
  }
  const EventLoop::Shield shield(session.loop);
  if (chain.manifest) {
    const auto cleaned_up = finish_clean_up(session, *chain.manifest);
    completed = completed ? completed : cleaned_up;
  }
  if (completed) {
    session.reporter.note(fmt::format("{}: level {} of an earlier run, from {}, is complete now",
                                      what_to_call(chain, files), level_name(completed->level), completed->time));
  }
  remove_what_is_left(session, chain, files);
  remove_partials(session, files, chain.partials);
  return completed;
}

}  // namespace qmpbackup
