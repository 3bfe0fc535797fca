#include "qmpbackup/backup_run.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <filesystem>

#include "qmpbackup/backup_commands.hpp"
#include "qmpbackup/backup_wait.hpp"
#include "qmpbackup/bitmap_marks.hpp"
#include "qmpbackup/chain_reader.hpp"
#include "qmpbackup/clock.hpp"
#include "qmpbackup/errors.hpp"
#include "qmpbackup/file_lock.hpp"
#include "qmpbackup/files.hpp"
#include "qmpbackup/level_bitmap.hpp"
#include "qmpbackup/level_finisher.hpp"
#include "qmpbackup/mark_check.hpp"
#include "qmpbackup/process.hpp"
#include "qmpbackup/qemu_img.hpp"
#include "qmpbackup/recovery_run.hpp"
#include "qmpbackup/session.hpp"

namespace qmpbackup {
namespace {

constexpr auto kSameFolders =
    "QEMU opens the path itself: it must run on this host, see the same folders and may open the file";

/// Gives a file that QEMU will open by its path a random length, which is returned: it tells our file from one that has
/// the same name where QEMU looks.
ByteCount pad(const std::string& partial) {
  constexpr ByteCount kSector = 512;  // QEMU counts these
  const ByteCount size = round_up(std::filesystem::file_size(partial), kSector) +
                         static_cast<ByteCount>(1 + random_number() % 1024) * kSector;
  std::filesystem::resize_file(partial, size);
  return size;
}

void refuse_other_file(Session& session, const Pending& pending, const std::string& partial, ByteCount size) {
  for (const Node& node : query_nodes(session)) {
    if (node.name == target_file_node(pending.chain) && node.virtual_size != size) {
      throw Error(fmt::format("{}: QEMU opened another file than {}", pending.device, partial), kSameFolders);
    }
  }
}

/// Creates the partial file and makes it QEMU's target. qemu-img formats it, not blockdev-create: while that works,
/// QEMU 7.2 aborts when any client sends query-named-block-nodes, and hangs when it is told to quit.
void prepare_target(Session& session, const DiskPlan& plan) {
  const Pending& pending = plan.pending();
  const std::string partial = plan.files.in_folder(pending.partial);
  const UniqueFd file = create_exclusively(partial);
  make_image(session.loop, file.get(), partial, image_format(plan), after(session.stall_timeout));
  const std::string same_file = fmt::format("/proc/self/fd/{}", file.get());  // whatever becomes of its name
  for (const Access& access : accesses(plan)) {
    const int flags = (access.writable ? O_RDWR : O_RDONLY) | (access.direct ? O_DIRECT : 0);
    session.client.execute(add_descriptor(plan), {open_file(same_file, flags).get()});
  }
  const ByteCount size = plan.path_for_qemu ? pad(partial) : 0;
  try {
    session.client.execute(add_file_node(plan));
    if (plan.path_for_qemu) {
      refuse_other_file(session, pending, partial, size);
    }
    session.client.execute(add_target(pending));
  } catch (const QmpError& error) {
    throw Error(fmt::format("{}: QEMU cannot open {}: {}", pending.device, partial, error.what()),
                plan.path_for_qemu ? kSameFolders : "see what QEMU says, and try again");
  }
}

std::string result_line(const std::string& device, const ChainFiles& files, const LevelRecord& record, double seconds) {
  const std::string what = record.level.is_full() ? format_size(record.virtual_size) + " disk"
                                                  : format_size(record.bytes_copied) + " copied";
  return fmt::format("{}: {} -> {}  {}, {} written, {}", device, level_name(record.level),
                     files.level_path(record.level), what, format_size(record.file_size), format_seconds(seconds));
}

nlohmann::json to_json(const std::string& device, const ChainFiles& files, const LevelRecord& record, double seconds,
                       const std::string& reason) {
  return {{"device", device},
          {"level", record.level.number},
          {"file", files.level_path(record.level)},
          {"sync", record.level.is_full() ? "full" : "bitmap"},
          {"bitmap", record.bitmap.value},
          {"virtual_size", record.virtual_size},
          {"bytes_copied", record.bytes_copied},
          {"file_size", record.file_size},
          {"seconds", seconds},
          {"sha256", record.sha256 ? nlohmann::json(*record.sha256) : nlohmann::json(nullptr)},
          {"reason", reason.empty() ? nlohmann::json(nullptr) : nlohmann::json(reason)}};
}

class BackupRun {
 public:
  BackupRun(EventLoop& loop, Reporter& reporter, const BackupOptions& options, std::span<FileLock> locks)
      : loop_(loop),
        reporter_(reporter),
        options_(options),
        client_(connect(loop, reporter, options.connection)),
        session_{loop, reporter, client_, query_features(client_), options.connection.timeouts.reply, options.checksums,
                 locks} {}

  void run() {
    std::vector<BackupRequest> open;
    for (const BackupRequest& request : options_.disks) {
      if (!options_.dry_run && completed_by_recovery(request)) {
        continue;
      }
      open.push_back(request);
    }
    vm_ = look_at_vm(session_);
    BackupPlan plan = make_plan(open);
    for (const std::string& warning : plan.warnings) {
      reporter_.warning(warning);
    }
    if (options_.dry_run) {
      print(plan);
      return;
    }
    for (const QmpCommand& command : without_marks_) {  // the guest may renew the marks before the new full is complete
      client_.execute(command);
    }
    if (!plan.disks.empty()) {
      take_levels(plan.disks);
    }
    report();
  }

 private:
  /// Whether the level asked for is the one that an earlier run had almost done.
  bool completed_by_recovery(const BackupRequest& request) {
    const auto completed = recover_chain(session_, request.files, request.speed_bytes_per_second.value_or(0));
    if (!completed || request.level != completed->level ||
        fault_of_chain(read_chain(loop_, request.files), request.files)) {
      return false;
    }
    lines_.push_back(fmt::format("{}: {} -> {}  completed from an earlier run", request.device,
                                 level_name(completed->level), request.files.level_path(completed->level)));
    results_.push_back(to_json(request.device, request.files, *completed, elapsed(), {}));
    return true;
  }

  BackupPlan make_plan(const std::vector<BackupRequest>& requests) {
    std::vector<DiskCircumstances> disks;
    for (const BackupRequest& request : requests) {
      DiskCircumstances disk{.request = request,
                             .chain = read_chain(loop_, request.files),
                             .target = inspect_target(request.files),
                             .fresh_id = random_chain_id(),
                             .fdset_id = random_number(),
                             .marks_seed = static_cast<std::uint64_t>(random_number()),
                             .now = now_utc(),
                             .same_host = !options_.connection.address.is_tcp,
                             .marks_intact = std::nullopt};
      if (options_.dry_run && disk.chain.manifest && disk.chain.manifest->pending) {
        reporter_.note(
            fmt::format("{}: an earlier run's level is pending: a real run resolves it first", request.device));
      }
      if (!options_.dry_run) {
        const Disk on = find_disk(vm_, request.device);
        disk.marks_intact = look_at_marks(session_, vm_, on, disk.chain);
        if (disk.marks_intact == false) {
          without_marks_.push_back(remove_bitmap(on.node, disk.chain.manifest->last()->bitmap));
        }
      }
      disks.push_back(std::move(disk));
    }
    return plan_backup(vm_, disks);
  }

  void print(const BackupPlan& plan) {
    for (const DiskPlan& disk : plan.disks) {
      const Level level = disk.pending().level;
      reporter_.note(fmt::format("{}: would take {} into {}, at most {} read", disk.disk.label, level_name(level),
                                 disk.files.level_path(level), format_size(disk.expected_bytes)));
    }
    for (const QmpCommand& command : list_commands(plan)) {
      reporter_.planned(qmpbackup::to_json(command));
    }
    reporter_.result({}, {{"command", "backup"}, {"dry_run", true}});
  }

  void take_levels(std::vector<DiskPlan>& plans) {
    try {
      copy(plans);
      for (DiskPlan& plan : plans) {
        const std::string reason = plan.pending().reason;
        const LevelRecord record = finish_level(session_, plan.files, plan.intent, Recovery::kFlush);
        reporter_.end_progress();
        lines_.push_back(result_line(plan.disk.label, plan.files, record, elapsed()));
        results_.push_back(to_json(plan.disk.label, plan.files, record, elapsed(), reason));
        clean_up_after_commit(session_, plan.intent);
      }
    } catch (const Interrupted& signal) {
      reporter_.end_progress();
      reporter_.passing("cancelling; ctrl-c again leaves at once, and the next run cleans up");
      const bool all = undo(plans);
      throw Interrupted(signal.signal_number(), all ? "the backup was cancelled, the chain is as it was" : "");
    } catch (const FileError& error) {  // which names a file alone
      const std::string device = plans.front().disk.label;
      const bool all = undo(plans);
      throw Error(fmt::format("{}: {}", device, error.what()),
                  fmt::format("{}; {}", error.hint(), all ? "the chain is as it was" : "the next run cleans up"));
    } catch (const std::exception&) {
      undo(plans);
      client_.throw_if_qemu_ends();  // it cancels our job before it goes
      throw;
    }
  }

  /// Step 3.
  void write_intent(const DiskPlan& plan) {
    if (plan.manifest_was_damaged) {
      rename_durably(plan.files.manifest_path(), plan.files.damaged_manifest_path());
    }
    write_durably(plan.files.manifest_path(), format_manifest(plan.intent));
    if (const Pending& run = plan.pending(); run.chain != plan.intent.chain || !plan.intent.last() || run.adopts) {
      write_lock_note(plan.files.lock_path(), with_begun(read_lock_note(plan.files.lock_path()), run.chain, run.level));
    }
    ++begun_;
  }

  /// The point in time.
  void begin(const std::vector<DiskPlan>& plans) {
    try {
      client_.execute(start_backup(plans));
    } catch (const QmpError& error) {
      throw Error(fmt::format("{}: {}", plans.front().pending().device, error.what()),
                  "was the disk resized, or did another client work on it? The chain is as it was; try again");
    }
  }

  /// Steps 3 to 5 of all disks.
  void copy(std::vector<DiskPlan>& plans) {
    for (const DiskPlan& plan : plans) {
      write_intent(plan);
    }
    for (const DiskPlan& plan : plans) {
      prepare_target(session_, plan);
      if (plan.pending().marks > 0) {
        const NodeName scratch = scratch_node(plan.pending().chain);
        client_.execute(add_scratch_node(scratch, plan.pending().virtual_size));
        if (compares_marks(plan)) {
          const LevelRecord& last = *plan.intent.last();
          make_marks(session_, scratch, kOldMarks, last.virtual_size, last.marks_seed);
        }
        make_marks(session_, scratch, kMarks, plan.pending().virtual_size, plan.pending().marks_seed);
      }
    }
    begin(plans);
    for (DiskPlan& plan : plans) {
      plan.intent.pending->started = now_utc();  // nothing that the guest writes from here on is in the level
    }
    const std::vector<Node> nodes = query_nodes(session_);
    std::vector<Pending> runs;
    for (const DiskPlan& plan : plans) {
      if (went_below_snapshot(*vm_.find_node(plan.disk.node), nodes)) {
        throw Error(fmt::format("{}: a snapshot was taken while the backup began", plan.pending().device),
                    "try again; the chain is as it was");
      }
      const NodeName scratch = scratch_node(plan.pending().chain);
      if (compares_marks(plan) && !all_marks_are_there(nodes, scratch)) {
        throw Error(fmt::format("{}: while the backup began, the disk was shrunk and grown, or its bitmap cleared",
                                plan.pending().device),
                    "try again: -inc auto takes a new full then");
      }
      if (plan.pending().marks > 0) {
        client_.execute(delete_node(scratch));
      }
      runs.push_back(plan.pending());
    }
    wait_for_backups(session_, runs);
  }

  /// Whether nothing is left of the levels.
  bool undo(std::vector<DiskPlan>& plans) {
    reporter_.end_progress();
    bool all = true;
    plans.erase(plans.begin() + begun_, plans.end());  // of the others nothing was written
    for (DiskPlan& plan : plans) {
      if (!plan.intent.pending || plan.intent.pending->verified) {
        all = false;  // committed, or complete: the next run repeats the commit
        continue;
      }
      try {
        undo_with_any_connection(plan);
      } catch (const std::exception& error) {
        reporter_.warning(fmt::format("{}: not everything could be taken back: {}; the next run does it",
                                      plan.disk.label, error.what()));
        all = false;
      }
    }
    for (FileLock& lock : session_.locks) {
      if (!all) {
        lock.keep();
      }
    }
    return all;
  }

  void undo_with_any_connection(DiskPlan& plan) {
    try {
      undo_level(session_, plan.files, plan.intent);
      return;
    } catch (const ConnectError&) {
      // Perhaps only the connection is gone, perhaps QEMU is.
    }
    const EventLoop::Shield shield(loop_);
    client_.close();  // QEMU serves one at a time
    try {
      QmpClient client = connect(loop_, reporter_, options_.connection);
      Session session{loop_,         reporter_, client, session_.features, session_.stall_timeout, session_.checksums,
                      session_.locks};
      undo_level(session, plan.files, plan.intent);
    } catch (const NobodyListens&) {
      // QEMU is gone, most likely. The intent stays, for the case that only its socket is: the next run looks.
      remove_durably(plan.files.in_folder(plan.pending().partial));
    }
  }

  void report() {
    reporter_.result(
        lines_,
        {{"command", "backup"}, {"vm", vm_.identity.name}, {"qemu", client_.qemu_version()}, {"disks", results_}});
  }

  [[nodiscard]] double elapsed() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

  EventLoop& loop_;
  Reporter& reporter_;
  const BackupOptions& options_;
  QmpClient client_;
  Session session_;
  VmState vm_;
  std::vector<QmpCommand> without_marks_;  ///< each removes a bitmap that a new full replaces
  std::ptrdiff_t begun_ = 0;               ///< so many disks' intents are on disk
  std::vector<std::string> lines_;
  nlohmann::json results_ = nlohmann::json::array();
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

void run_backup(EventLoop& loop, Reporter& reporter, const BackupOptions& options) {
  require_program("qemu-img");
  std::vector<FileLock> locks;
  for (const BackupRequest& request : options.disks) {
    const std::string folder = request.files.folder();
    if (!storage_answers(loop, folder, options.connection.timeouts.reply)) {
      throw FileError(fmt::format("the storage of {} does not answer", folder),
                      "see what it waits for, then try again");
    }
    require_folder(request.files);
    if (!options.dry_run) {
      locks.emplace_back(request.files.lock_path());
    }
  }
  BackupRun(loop, reporter, options, locks).run();
}

}  // namespace qmpbackup
