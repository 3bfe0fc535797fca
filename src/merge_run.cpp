#include "qmpbackup/merge_run.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "qmpbackup/arguments.hpp"
#include "qmpbackup/chain_reader.hpp"
#include "qmpbackup/chain_view.hpp"
#include "qmpbackup/clock.hpp"
#include "qmpbackup/errors.hpp"
#include "qmpbackup/file_lock.hpp"
#include "qmpbackup/files.hpp"
#include "qmpbackup/folders.hpp"
#include "qmpbackup/level_check.hpp"
#include "qmpbackup/merge_finisher.hpp"
#include "qmpbackup/process.hpp"
#include "qmpbackup/qemu_img.hpp"

namespace qmpbackup {
namespace {

class Merge {
 public:
  Merge(EventLoop& loop, Reporter& reporter, const MergeRequest& request, const std::optional<FileLock>& lock)
      : loop_(loop), reporter_(reporter), request_(request), files_(request.files), lock_(lock) {}

  void run() {
    load();
    const ByteCount needed = refuse_without_space();
    if (request_.dry_run) {
      reporter_.result({fmt::format("{}: full to {} would become the full ({} levels), with at most {} of new files",
                                    files_.base(), level_name(request_.through), merged_.size(), format_size(needed))},
                       {{"command", "merge"}, {"dry_run", true}, {"base", files_.base()}, {"bytes_needed", needed}});
      return;
    }
    Manifest next = *manifest_;
    try {
      next.levels.erase(next.levels.begin(), next.levels.begin() + static_cast<std::ptrdiff_t>(merged_.size()));
      if (!next.levels.empty()) {
        relink(next.levels.front());
      }
      next.levels.insert(next.levels.begin(), make_full());
    } catch (const Interrupted& signal) {
      reporter_.end_progress();
      remove_partials();
      throw Interrupted(signal.signal_number(), "the merge was cancelled, the chain is as it was");
    } catch (const std::exception&) {
      reporter_.end_progress();
      remove_partials();
      throw;
    }
    reporter_.end_progress();
    next.merged = request_.through;
    next.pending_merge = PendingMerge{request_.through};
    const EventLoop::Shield shield(loop_);
    commit(next);
    finish_merge(files_, next);
    report(next.levels.front());
  }

 private:
  void commit(const Manifest& next) {
    lock_->require_held();
    try {
      write_durably(files_.manifest_path(), format_manifest(next));
    } catch (const Error&) {
      const ChainOnDisk chain = read_chain(loop_, files_);
      if (chain.manifest && !chain.manifest->pending_merge) {  // else it was renamed, and the next run goes on
        remove_partials();
      }
      throw;
    }
  }

  void load() {
    ChainOnDisk chain = read_chain_to_restore(loop_, files_);
    refuse_without_levels(chain);
    if (!request_.dry_run) {
      finish_merge(files_, *chain.manifest);
      chain = read_chain(loop_, files_);
    }
    manifest_ = chain.manifest;
    if (const auto beyond = file_beyond_manifest(chain, files_)) {
      throw ChainError(fmt::format("{} is not in the manifest: it may need a level that would be merged", *beyond),
                       "put the newest manifest back; a file that is no level of this chain, move away");
    }
    merged_ = view_chain(chain, files_);
    below_by_ = links_stay_in_folder(chain, merged_) ? BelowBy::kLinks : BelowBy::kNames;
    const auto index = index_of(merged_, request_.through);
    if (manifest_->merged && request_.through <= *manifest_->merged) {
      throw ChainError(fmt::format("level {} of {} is in the full already, with all levels up to {}",
                                   level_name(request_.through), files_.base(), level_name(*manifest_->merged)),
                       "see qmpbackup list -backupFile " + shell_quoted(files_.base()));
    }
    if (!index || request_.through.is_full()) {
      throw ChainError(
          fmt::format("{} has no level {} to merge into its full", files_.base(), level_name(request_.through)),
          "see qmpbackup list -backupFile " + shell_quoted(files_.base()));
    }
    const std::size_t read = std::min(merged_.size(), *index + 2);  // the level after them is copied
    for (std::size_t i = 0; i < read; ++i) {
      if (const auto& fault = merged_[i].fault) {
        throw ChainError(fmt::format("{} cannot be merged: {}", files_.base(), *fault),
                         "see qmpbackup verify -backupFile " + shell_quoted(files_.base()));
      }
    }
    merged_.resize(*index + 1);
    if (!request_.dry_run) {
      for (const Level level : chain.partials) {  // no run is pending: they are of a merge that was killed
        remove_durably(files_.partial_path(level));
      }
    }
  }

  void refuse_without_levels(const ChainOnDisk& chain) const {
    if (chain.manifest && chain.manifest->pending) {
      throw ChainError(
          fmt::format("{}: a backup of level {} is pending", files_.base(), level_name(chain.manifest->pending->level)),
          "run the next backup first: it resolves it");
    }
    if (!chain.manifest || chain.manifest->levels.empty()) {
      throw chain.files.empty()
          ? no_chain_at(files_)
          : ChainError(
                fmt::format("{} cannot be merged: {} {}", files_.base(), files_.manifest_path(),
                            chain.manifest_problem.empty() ? "is missing" : "is unreadable: " + chain.manifest_problem),
                chain.manifest_state == ManifestState::kTooNew
                    ? "use the newer qmpbackup that wrote it"
                    : "put it back; without it the chain restores all the same");
    }
  }

  void remove_partials() const {
    remove_durably(files_.partial_path(kFullLevel));
    remove_durably(files_.partial_path(request_.through.next()));
  }

  ByteCount refuse_without_space() const {
    ByteCount needed = 4 * kMiB;
    for (const LevelView& level : merged_) {
      needed += level.record.file_size;
    }
    if (merged_.size() < manifest_->levels.size()) {
      needed += manifest_->levels[merged_.size()].file_size;
    }
    const auto free = free_bytes(files_.folder());
    if (request_.check_space && free && *free < needed) {
      throw ChainError(fmt::format("{} has {} free, the merge may need {}", files_.folder(), format_size(*free),
                                   format_size(needed)),
                       "make room, or skip this check with --no-space-check");
    }
    return needed;
  }

  /// Makes the partial file of the new full from what the levels show together.
  LevelRecord make_full() {
    const LevelRecord& top = merged_.back().record;
    const std::string partial = std::filesystem::absolute(files_.partial_path(kFullLevel)).string();
    const UniqueFd file = create_exclusively(partial);
    std::vector<std::string> paths;
    for (const LevelView& level : merged_) {
      paths.push_back(std::filesystem::absolute(files_.level_path(level.record.level)).string());
    }
    const std::string compression = merged_.front().record.compression;
    std::vector<std::string> argv{"qemu-img", "convert", "-p", "-W", "-m", "16", "-O", "qcow2"};
    // Without compression larger clusters could take more room than all that goes into them.
    std::string options = compression == "none" ? "cluster_size=64K" : "cluster_size=1M";
    if (compression != "none") {
      argv.emplace_back("-c");
      options += compression == "zlib" ? "" : ",compression_type=zstd";
    }
    if (takes_direct_io(files_.folder(), files_.lock_path())) {
      argv.insert(argv.end(), {"-t", "none"});
    }
    argv.insert(argv.end(), {"-o", options, chain_image(paths, below_by_), partial});
    Progress progress("merge", {}, std::chrono::steady_clock::now());
    Process convert(loop_, argv, -1, [&](std::string_view piece) {
      if (const auto share = convert_progress(piece)) {
        progress.update(static_cast<ByteCount>(*share * static_cast<double>(top.virtual_size)), top.virtual_size,
                        std::chrono::steady_clock::now());
        reporter_.progress(progress);
      }
    });
    refuse_damaged_content();
    const ProcessResult result = convert.wait(after(kLongestWork));
    if (result.exit_code != 0) {
      throw Error(fmt::format("qemu-img convert failed: {}", result.reason()),
                  "check the chain with qmpbackup verify, and the free space; the chain is as it was");
    }
    LevelRecord record = top;
    record.level = kFullLevel;
    record.file = files_.level_file(kFullLevel);
    record.compression = compression == "unknown" ? "zstd" : compression;
    record.bytes_copied = complete(record).present();
    return record;
  }

  /// Damage must not be merged into a file that then gets a checksum of its own.
  void refuse_damaged_content() const {
    check_levels(
        loop_, merged_, {.page_cache = PageCache::kShare, .structure = false}, [](ByteCount) {},
        [this](std::size_t, const LevelVerdict& verdict) {
          if (!verdict.faults.empty()) {
            refuse_damage(verdict.faults.front());
          }
        });
  }

  [[noreturn]] void refuse_damage(const std::string& fault) const {
    throw ChainError(
        fault, fmt::format("the chain is as it was; see qmpbackup verify -backupFile {}", shell_quoted(files_.base())));
  }

  /// Makes the partial file of the level after the merged ones: a copy on top of the full.
  void relink(LevelRecord& record) {
    const std::string partial = std::filesystem::absolute(files_.partial_path(record.level)).string();
    { const UniqueFd file = create_exclusively(partial); }
    const auto poll = [this](ByteCount) { loop_.poll(); };
    copy_content(files_.level_path(record.level), partial, poll);
    if (record.sha256 && sha256_of_file(partial, poll, PageCache::kShare) != *record.sha256) {
      refuse_damage(fmt::format("{} is not what was committed: its SHA-256 differs", record.file));
    }
    const auto result = run_process(
        loop_,
        {"qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", files_.backing_link(kFullLevel), partial}, -1,
        after(kLongestWork), [](std::string_view) {});
    if (result.exit_code != 0) {
      throw Error(fmt::format("qemu-img rebase failed on {}: {}", partial, result.reason()));
    }
    refuse_incomplete(partial, record, complete(record));
  }

  /// Makes a partial file durable, and fills in what the record says of it as a file. Returns what it holds.
  ImageMap complete(LevelRecord& record) {
    const std::string partial = files_.partial_path(record.level);
    sync_file(partial);
    ImageRun check(loop_, ImageRun::Kind::kCheck, partial, record.virtual_size);
    ImageMap map = map_image(loop_, partial);
    if (map.end() != record.virtual_size) {
      throw Error(fmt::format("{} holds a disk of {} instead of {} bytes", partial, map.end(), record.virtual_size));
    }
    record.file_size = regular_file_info(partial).value_or(FileInfo{}).size;
    record.sha256 = sha256_of_file(partial, [this](ByteCount) { loop_.poll(); });
    check.finish();
    record.checked = true;
    return map;
  }

  void report(const LevelRecord& full) {
    reporter_.result(
        {fmt::format("{}: full to {} -> {}", files_.base(), level_name(request_.through),
                     files_.level_path(kFullLevel)),
         fmt::format("{}, holds the disk as it was at {}", format_size(full.file_size), format_local(full.time)),
         fmt::format("overlays made before on full to {} are useless now: make new ones",
                     level_name(request_.through))},
        {{"command", "merge"},
         {"base", files_.base()},
         {"merged", request_.through.number},
         {"file", files_.level_path(kFullLevel)},
         {"file_size", full.file_size},
         {"time", full.time}});
  }

  EventLoop& loop_;
  Reporter& reporter_;
  const MergeRequest& request_;
  const ChainFiles& files_;
  const std::optional<FileLock>& lock_;  ///< not in a dry run
  std::optional<Manifest> manifest_;
  std::vector<LevelView> merged_;  ///< what goes into the new full
  BelowBy below_by_ = BelowBy::kNames;
};

}  // namespace

void run_merge(EventLoop& loop, Reporter& reporter, const MergeRequest& request) {
  require_folder(request.files);
  std::optional<FileLock> lock;
  if (!request.dry_run) {  // which leaves no lock file either
    lock.emplace(request.files.lock_path());
  }
  Merge(loop, reporter, request, lock).run();
}

}  // namespace qmpbackup
