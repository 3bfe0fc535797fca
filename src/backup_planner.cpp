#include "qmpbackup/backup_planner.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "qmpbackup/bitmap_marks.hpp"
#include "qmpbackup/chain_view.hpp"
#include "qmpbackup/errors.hpp"
#include "qmpbackup/level_bitmap.hpp"

namespace qmpbackup {
namespace {

constexpr ByteCount kFullClusterSize = kMiB, kSmallClusterSize = 64 * kKiB;

/// Decides about one disk.
class DiskPlanner {
 public:
  DiskPlanner(const VmState& vm, const DiskCircumstances& in, std::vector<std::string>& warnings)
      : vm_(vm), in_(in), warnings_(warnings), disk_(find_disk(vm, in.request.device)), node_(*find_node()) {}

  DiskPlan plan() {
    refuse_by_vm();
    refuse_by_manifest();
    const std::string reason = choose_level();
    refuse_by_folder();
    return level_.is_full() ? plan_full(reason) : plan_incremental();
  }

 private:
  const Node* find_node() const {
    const Node* node = vm_.find_node(disk_.node);
    if (node == nullptr) {
      throw ChainError(fmt::format("{}: QEMU does not list its node {}", disk_.label, disk_.node.value));
    }
    return node;
  }

  [[nodiscard]] std::string about(std::string_view text) const { return fmt::format("{}: {}", disk_.label, text); }
  /// What may help in place of a new full: in the order of why_no_incremental.
  [[nodiscard]] std::string_view repair_hint() const {
    const bool lost = in_.chain.has_backups() && !in_.chain.manifest && !adopted_;
    if (lost || (!adopted_ && fault_of_chain(in_.chain, in_.request.files))) {
      return "put it back, or ";
    }
    if (file_beyond_manifest(in_.chain, in_.request.files)) {
      return "put the newest manifest back, or ";
    }
    if (node_below_snapshot() != nullptr) {
      return "commit the snapshot, or ";
    }
    const Bitmap* bitmap = levels().empty() ? nullptr : node_.find_bitmap(levels().back().bitmap);
    return bitmap != nullptr && bitmap->busy ? "end that and try again, or " : "";
  }
  [[nodiscard]] std::string start_anew_hint(std::string_view why) const {
    return fmt::format("start anew, what is there moves aside ({}): {} -inc auto", why, in_.request.command);
  }
  [[nodiscard]] std::string adopt_hint() const {
    const std::optional<Level> wanted = in_.request.level;
    return fmt::format("take that chain over: {} -inc {} --adopt", in_.request.command,
                       wanted && !wanted->is_full() ? std::to_string(wanted->number) : "auto");
  }
  [[nodiscard]] std::string next_level_hint(Level next) const {
    return fmt::format("the next one: {} -inc {}{}", in_.request.command, next.number, adopted_ ? " --adopt" : "");
  }
  [[noreturn]] void refuse(std::string_view text, std::string hint) const {
    throw ChainError(about(text), std::move(hint));
  }

  void refuse_by_vm() const {
    if (!vm_.features.backup_never_clears) {
      refuse("this QEMU has no backup that keeps its bitmap (blockdev-backup bitmap-mode=never)",
             "QEMU 4.2 or newer is needed");
    }
    if (auto problem = migration_problem(vm_)) {
      refuse(problem->text, problem->hint);
    }
    if (const Job* job = job_on(vm_, disk_)) {
      refuse(fmt::format("the {} job '{}' works on this disk", job->type, job->id.value),
             job->is_ours()
                 ? "try again when it is over; if its run was killed, run the backup of that chain: it goes on"
                 : "try again when it is over");
    }
    if (node_.virtual_size == 0) {
      refuse("the disk has no size", "check the device");
    }
  }

  void refuse_by_manifest() const {
    const ChainOnDisk& chain = in_.chain;
    if (chain.manifest_state == ManifestState::kTooNew) {
      refuse(fmt::format("{} cannot be used: {}", in_.request.files.manifest_path(), chain.manifest_problem),
             "use the newer qmpbackup that wrote it");
    }
    if (!chain.manifest) {
      return;
    }
    refuse_other_vm(in_.request.files.base(), chain.manifest->vm, vm_.identity);
    if (has_bitmap_of({node_}, chain.manifest->chain)) {
      return;  // whatever the disk was called then
    }
    // Another disk is not fine. A device without an id is called by its place, which is another one's after a restart.
    for (const Disk& other : list_disks(vm_)) {
      if (other.label == chain.manifest->device && other.node != disk_.node && other.label != disk_.label &&
          !other.label.starts_with("/machine/peripheral-anon/")) {
        refuse(fmt::format("{} is a chain of device {}", in_.request.files.base(), chain.manifest->device),
               "give each disk a -backupFile of its own");
      }
    }
  }

  /// Sets level_; returns why `auto` takes a full where a chain is there already, else nothing.
  std::string choose_level() {
    const std::optional<Level> wanted = in_.request.level;
    if (wanted && wanted->is_full()) {
      refuse_full_over_backups();
      level_ = kFullLevel;
      return {};
    }
    if (in_.request.adopt && in_.chain.manifest_state == ManifestState::kAbsent && in_.chain.has_backups() &&
        !in_.chain.was_ours) {
      try_to_adopt();
    }
    if (wanted) {
      refuse_wrong_level(*wanted);
      if (const std::string reason = why_no_incremental(); !reason.empty()) {
        throw NewFullNeeded(about(reason), can_adopt() ? adopt_hint()
                                                       : fmt::format("{}take a new full: {} -inc auto", repair_hint(),
                                                                     in_.request.command));
      }
      level_ = *wanted;
      return {};
    }
    if (!in_.chain.has_backups()) {
      refuse_full_over_backups();
      level_ = kFullLevel;
      return {};
    }
    std::string reason = why_no_incremental();
    level_ = reason.empty() ? next_level() : kFullLevel;
    return reason;
  }

  [[nodiscard]] const std::vector<LevelRecord>& levels() const {
    return adopted_ ? adopted_->levels : in_.chain.levels();
  }

  /// Only with levels.
  [[nodiscard]] Level next_level() const {
    return adopted_ ? adopted_->next_level() : in_.chain.manifest->next_level();
  }

  void try_to_adopt() {
    try {
      adopted_ = adopt_chain(in_.chain, in_.request.files, in_.fresh_id, vm_.identity, disk_.label);
    } catch (const ChainError& error) {
      why_not_adopted_ = fmt::format("the chain cannot be adopted: {}", error.what());
    }
  }

  [[nodiscard]] bool can_adopt() const {
    return in_.chain.manifest_state == ManifestState::kAbsent && !in_.chain.was_ours && !adopted_ &&
           why_not_adopted_.empty() && in_.chain.file_of(kFullLevel) != nullptr && !in_.chain.full_is_empty_image &&
           node_.find_bitmap(kForeignBitmap) != nullptr;
  }

  void refuse_full_over_backups() const {
    const ChainFiles& files = in_.request.files;
    if (in_.chain.full_is_empty_image && in_.chain.files.size() == 1 && in_.chain.levels().empty() &&
        in_.chain.manifest_state != ManifestState::kDamaged) {
      const ByteCount size = in_.chain.file_of(kFullLevel)->header->virtual_size;
      if (size != node_.virtual_size) {
        refuse(fmt::format("the empty image {} has {} bytes, the disk has {}", files.level_path(kFullLevel), size,
                           node_.virtual_size),
               "remove the image: qmpbackup makes it with the right size");
      }
      return;
    }
    const std::string why = why_no_incremental();
    const std::string how =
        "give another -backupFile, or " +
        (can_adopt()   ? adopt_hint()
         : why.empty() ? fmt::format("continue the chain (after -cleanBitmap: with a new full): {} -inc auto",
                                     in_.request.command)
                       : start_anew_hint(why));
    if (const LevelFile* file = in_.chain.files.empty() ? nullptr : &in_.chain.files.front()) {
      refuse(fmt::format("{} exists already, and nothing is overwritten", files.level_path(file->level)), how);
    }
    if (in_.chain.has_backups()) {
      refuse(fmt::format("{} {}", files.manifest_path(),
                         in_.chain.manifest ? "names a chain whose files are gone"
                                            : "is damaged: " + in_.chain.manifest_problem),
             how);
    }
  }

  /// A level that is not the next one is a mistake of the caller's; the chain itself may be fine.
  void refuse_wrong_level(Level wanted) const {
    if (levels().empty() || file_beyond_manifest(in_.chain, in_.request.files)) {
      return;  // why_no_incremental says it
    }
    const Level next = next_level();
    const bool merged = !adopted_ && in_.chain.manifest->merged && wanted <= *in_.chain.manifest->merged;
    if (wanted != next) {
      refuse(fmt::format("level {} {}", level_name(wanted),
                         merged ? "was merged into the full"
                         : wanted < next
                             ? "exists already, and nothing is overwritten"
                             : fmt::format("needs level {}, which was not taken yet", level_name(wanted.previous()))),
             next_level_hint(next));
    }
  }

  /// Why the chain cannot go on; empty when it can.
  [[nodiscard]] std::string why_no_incremental() const {
    const ChainFiles& files = in_.request.files;
    if (in_.chain.manifest_state == ManifestState::kDamaged) {
      return fmt::format("the manifest {} is damaged: {}", files.manifest_path(), in_.chain.manifest_problem);
    }
    if (!why_not_adopted_.empty()) {
      return why_not_adopted_;
    }
    if (can_adopt()) {
      return fmt::format("{} is a chain of the Go tool, and --adopt was not given", files.base());
    }
    if (levels().empty()) {
      return in_.chain.has_backups() ? fmt::format("the manifest {} is missing", files.manifest_path())
                                     : fmt::format("there is no full backup at {}", files.level_path(kFullLevel));
    }
    if (!adopted_) {
      if (auto fault = fault_of_chain(in_.chain, files)) {
        return *fault;
      }
    }
    const LevelRecord& last = levels().back();
    if (const auto beyond = file_beyond_manifest(in_.chain, files)) {
      return fmt::format("{} is not in the manifest, which may be an older copy", *beyond);
    }
    if (const Node* node = node_below_snapshot()) {
      return fmt::format("the bitmap for level {} is on the node {}, below a snapshot", level_name(last.level),
                         node->name.value);
    }
    if (std::string reason = why_bitmap_is_unusable(node_, last); !reason.empty()) {
      return reason + (in_.chain.manifest ? note_of_another_vm(in_.chain.manifest->vm, vm_.identity) : "");
    }
    return why_size_is_wrong(node_, last, in_.marks_intact);
  }

  [[nodiscard]] const Node* node_below_snapshot() const {
    return levels().empty() ? nullptr : holder_below_snapshot(vm_, disk_, levels().back().bitmap);
  }

  void refuse_by_folder() const {
    const std::string folder = in_.request.files.folder();
    if (!in_.target.exists) {
      refuse(fmt::format("there is no folder {}", folder), "create it, or mount what should be there");
    }
    if (!in_.target.writable) {
      refuse(fmt::format("the folder {} is not writable", folder), "check its owner, mode and mount");
    }
  }

  void refuse_without_space(ByteCount bytes) const {
    // Tables and refcounts: 8 + 2 bytes a cluster of 64 KiB at most, and some room for the file system.
    const ByteCount margin = 4 * kMiB + bytes / 64 + node_.virtual_size / (4 * kKiB) / 4;
    if (in_.request.check_space && in_.target.free_bytes && *in_.target.free_bytes < bytes + margin) {
      refuse(fmt::format("{} has {} free, the backup may need {}", in_.request.files.folder(),
                         format_size(*in_.target.free_bytes), format_size(bytes + margin)),
             "make room, or skip this check with --no-space-check");
    }
  }

  [[nodiscard]] std::string compression() const {
    if (in_.request.compression == "zstd" && !vm_.features.zstd) {
      refuse("this QEMU has no zstd compression", "use --compress zlib or none");
    }
    if (!in_.request.compression.empty()) {
      return in_.request.compression;
    }
    return vm_.features.zstd ? "zstd" : "zlib";
  }

  /// What full and incremental have in common; `chain` is the one that the level will belong to.
  [[nodiscard]] DiskPlan common(Manifest intent, const ChainId& chain, const std::string& reason) const {
    const ByteCount cluster = in_.request.cluster_size.value_or(
        level_.is_full() && compression() != "none" ? kFullClusterSize : kSmallClusterSize);
    intent.pending = Pending{.chain = chain,
                             .level = level_,
                             .job = level_job(chain, level_),
                             .node = target_node(chain),
                             .bitmap = level_bitmap(chain, level_),
                             .partial = in_.request.files.partial_file(level_),
                             .started = in_.now,
                             .device = disk_.label,
                             .vm = vm_.identity,
                             .granularity = granularity_of_next(intent, chain),
                             .marks = vm_.features.human_monitor ? count_marks(node_.virtual_size, in_.marks_seed) : 0,
                             .marks_seed = in_.marks_seed,
                             .compression = compression(),
                             .virtual_size = node_.virtual_size,
                             .cluster_size = cluster,
                             .adopts = adopted_.has_value(),
                             .was_running = vm_.status == "running",
                             .reason = reason};
    DiskPlan plan{.disk = disk_, .files = in_.request.files, .intent = std::move(intent)};
    plan.manifest_was_damaged = in_.chain.manifest_state == ManifestState::kDamaged;
    plan.persistent = node_.stores_bitmaps && !node_.read_only;
    plan.direct_io = in_.target.takes_direct_io && !in_.request.buffered;
    if (!in_.same_host || !vm_.features.descriptors) {
      plan.path_for_qemu = in_.target.absolute_path + "/" + plan.pending().partial;
    }
    plan.fdset_id = in_.fdset_id;
    plan.speed_bytes_per_second = in_.request.speed_bytes_per_second;
    if (!plan.persistent && level_.is_full()) {
      warnings_.push_back(
          about(fmt::format("a {} disk cannot store bitmaps: when QEMU exits, the next backup must be a full",
                            node_.driver == "qcow2" ? "read-only or version 2 qcow2" : node_.driver)));
    }
    if (node_.encrypted) {
      warnings_.push_back(about("the disk is encrypted, its backup is not"));
    }
    return plan;
  }

  DiskPlan plan_full(const std::string& reason) const {
    const bool replaces = in_.chain.has_backups();
    Manifest intent{.chain = in_.fresh_id, .vm = vm_.identity, .device = disk_.label};
    if (in_.chain.manifest && replaces) {
      intent = *in_.chain.manifest;
    } else if (in_.chain.manifest) {
      intent.other = in_.chain.manifest->other;
    }
    std::erase_if(intent.replaces, [&](const ChainId& chain) { return !has_bitmap_of(vm_.nodes, chain); });
    if (replaces && in_.chain.lost_id) {
      intent.replaces.push_back(*in_.chain.lost_id);
    }
    DiskPlan plan = common(std::move(intent), in_.fresh_id, reason);
    if (replaces) {
      plan.intent.pending->archive = unused_archive(in_.chain, in_.now);
    }
    plan.expected_bytes = allocated_bytes(vm_, disk_);
    const bool written_whole = plan.pending().compression == "none";  // a cluster with a single allocated granule
    const ByteCount blow_up = std::max<ByteCount>(plan.pending().cluster_size / kGranularity, 1);
    refuse_without_space(written_whole ? std::min(plan.expected_bytes * blow_up, node_.virtual_size)
                                       : plan.expected_bytes);
    if (!reason.empty()) {
      warnings_.push_back(about(fmt::format("taking a new full: {}; the old chain moves to {}", reason,
                                            in_.request.files.archived(*plan.pending().archive).folder())));
    }
    if (const std::string names = names_of_our_bitmaps(node_); !names.empty()) {
      if (replaces && !in_.chain.manifest && !has_bitmap_of({node_}, in_.chain.lost_id)) {
        warnings_.push_back(
            about(fmt::format("the bitmap {} stays: it may be of the old chain, whose manifest is gone, or of another "
                              "chain of this disk",
                              names)));
      } else if (!replaces && !in_.request.level) {
        warnings_.push_back(
            about(fmt::format("taking the first full at {}, though the disk has {}: is the folder of "
                              "that chain mounted?",
                              in_.request.files.base(), names)));
      }
    }
    return plan;
  }

  DiskPlan plan_incremental() const {
    const Manifest& manifest = adopted_ ? *adopted_ : *in_.chain.manifest;
    DiskPlan plan = common(manifest, manifest.chain, {});
    const Bitmap& bitmap = *node_.find_bitmap(levels().back().bitmap);
    const ByteCount granule = std::max<ByteCount>(bitmap.granularity, 1);
    const ByteCount cluster = std::max(plan.pending().cluster_size, granule);
    plan.previous_bitmap = bitmap.name;
    plan.expected_bytes = std::min(bitmap.dirty / granule * cluster, round_up(node_.virtual_size, cluster));
    refuse_without_space(plan.expected_bytes);
    return plan;
  }

  const VmState& vm_;
  const DiskCircumstances& in_;
  std::vector<std::string>& warnings_;
  Disk disk_;
  const Node& node_;
  Level level_;
  std::optional<Manifest> adopted_;
  std::string why_not_adopted_;
};

}  // namespace

BackupPlan plan_backup(const VmState& vm, const std::vector<DiskCircumstances>& disks) {
  BackupPlan plan;
  for (const DiskCircumstances& disk : disks) {
    plan.disks.push_back(DiskPlanner(vm, disk, plan.warnings).plan());
  }
  return plan;
}

}  // namespace qmpbackup
