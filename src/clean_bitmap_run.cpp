#include "qmpbackup/clean_bitmap_run.hpp"

#include <fmt/format.h>

#include <set>
#include <vector>

#include "qmpbackup/backup_commands.hpp"
#include "qmpbackup/chain_reader.hpp"
#include "qmpbackup/errors.hpp"
#include "qmpbackup/file_lock.hpp"
#include "qmpbackup/files.hpp"
#include "qmpbackup/level_finisher.hpp"
#include "qmpbackup/recovery_run.hpp"
#include "qmpbackup/session.hpp"

namespace qmpbackup {
namespace {

ChainOnDisk read_sound_chain(EventLoop& loop, const ChainFiles& files) {
  ChainOnDisk chain = read_chain(loop, files);
  const bool lost = chain.manifest_state == ManifestState::kDamaged && !chain.lost_id;
  const bool too_new = chain.manifest_state == ManifestState::kTooNew;
  if (lost || too_new) {
    throw ChainError(fmt::format("{} cannot be used: {}", files.manifest_path(), chain.manifest_problem),
                     too_new ? "use the newer qmpbackup that wrote it"
                             : "leave -backupFile out to remove the bitmaps of all chains of this device");
  }
  return chain;
}

bool is_meant(const std::optional<ChainOnDisk>& chain, const BitmapName& bitmap) {
  const auto named = parse_chain_level(bitmap.value);
  if (!chain) {
    return named || bitmap == kForeignBitmap;
  }
  if (!chain->manifest) {
    return chain->lost_id ? named && named->chain == *chain->lost_id : bitmap == kForeignBitmap;
  }
  const LevelRecord* last = chain->manifest->last();
  return (named && named->chain == chain->manifest->chain) || (last != nullptr && bitmap == last->bitmap);
}

/// Refuses another VM's chain, and warns of another disk's and of none: that nothing is removed must not look like
/// success.
void check_whose_chain(Reporter& reporter, const ChainFiles& files, const ChainOnDisk& chain, const VmState& vm,
                       const Disk& disk) {
  if (chain.manifest) {
    refuse_other_vm(files.base(), chain.manifest->vm, vm.identity);
    if (chain.manifest->device != disk.label) {
      reporter.warning(
          fmt::format("{} is a chain of device {}, this is {}", files.base(), chain.manifest->device, disk.label));
    }
  } else if (!chain.has_backups() && !chain.lost_id) {
    reporter.warning(
        fmt::format("there is no chain at {}: check -backupFile, or leave it out to remove the bitmaps "
                    "of all chains of this device",
                    files.base()));
  }
}

void refuse_while_a_backup_works(const VmState& vm, const Disk& disk) {
  for (const Job& job : vm.jobs) {
    if (job.is_ours() && !job.is_concluded()) {
      throw ChainError(fmt::format("{}: the backup job '{}' works on this VM", disk.label, job.id.value),
                       "try again when it is over");
    }
  }
}

/// Before any is removed.
void refuse_while_in_use(const VmState& vm, const Disk& disk, const std::optional<ChainOnDisk>& chain) {
  for (const Node* node : backing_chain(vm, disk)) {
    for (const Bitmap& bitmap : node->bitmaps) {
      if (bitmap.busy && is_meant(chain, bitmap.name)) {
        const Job* job = job_on(vm, disk);
        throw ChainError(fmt::format("{}: {} is in use by {}", disk.label, bitmap.name.value,
                                     job == nullptr ? "another client" : fmt::format("the job '{}'", job->id.value)),
                         "try again when that is over");
      }
    }
  }
}

}  // namespace

void run_clean_bitmap(EventLoop& loop, Reporter& reporter, const CleanBitmapRequest& request) {
  std::optional<FileLock> lock;
  std::optional<ChainOnDisk> chain;
  if (request.files) {
    require_folder(*request.files);
    if (!request.dry_run) {
      lock.emplace(request.files->lock_path());
    }
    chain = read_sound_chain(loop, *request.files);
  }
  QmpClient client = connect(loop, reporter, request.connection);
  Session session{loop, reporter, client, query_features(client), request.connection.timeouts.reply};
  if (lock) {
    session.locks = {&*lock, 1};
    recover_chain(session, *request.files, std::nullopt);
    chain = read_sound_chain(loop, *request.files);
  }
  const VmState vm = look_at_vm(session);
  const Disk disk = find_disk(vm, request.device);
  if (const auto problem = migration_problem(vm)) {  // what it changes here would be lost, or come back
    throw ChainError(fmt::format("{}: {}", disk.label, problem->text), problem->hint);
  }
  refuse_while_a_backup_works(vm, disk);
  if (chain) {
    check_whose_chain(reporter, *request.files, *chain, vm, disk);
  }
  refuse_while_in_use(vm, disk, chain);
  nlohmann::json removed = nlohmann::json::array();
  std::set<ChainId> chains;
  for (const Node* node : backing_chain(vm, disk)) {  // after a snapshot, bitmaps stay on the lower node
    for (const Bitmap& bitmap : node->bitmaps) {
      if (!is_meant(chain, bitmap.name)) {
        continue;
      }
      if (node->read_only && bitmap.persistent) {
        reporter.warning(
            fmt::format("{}: {} stays: the node {} is read-only, below a snapshot; try again when that is "
                        "committed",
                        disk.label, bitmap.name.value, node->name.value));
        continue;
      }
      const QmpCommand command = remove_bitmap(node->name, bitmap.name);
      if (request.dry_run) {
        reporter.planned(to_json(command));
      } else {
        client.execute(command);
      }
      removed.push_back(bitmap.name.value);
      if (const auto owner = parse_chain_level(bitmap.name.value)) {
        chains.insert(owner->chain);
      }
    }
  }
  if (!request.dry_run) {  // what else a run of these chains left, which may have been killed, and its files deleted
    for (const std::string& leftover : remove_leftovers(session, {chains.begin(), chains.end()}, {})) {
      reporter.note(fmt::format("{}: removed the {} of an earlier run", disk.label, leftover));
    }
  }
  const std::string consequence = removed.empty() ? ""
                                                  : fmt::format("; the next backup of {} must be a full",
                                                                request.files ? "this chain" : "this device");
  reporter.result({fmt::format("{}: {} {} bitmap{}{}", disk.label, request.dry_run ? "would remove" : "removed",
                               removed.size(), removed.size() == 1 ? "" : "s", consequence)},
                  {{"command", "clean-bitmap"},
                   {"dry_run", request.dry_run},
                   {"device", disk.label},
                   {"vm", vm.identity.name},
                   {"qemu", client.qemu_version()},
                   {"removed", removed}});
}

}  // namespace qmpbackup
