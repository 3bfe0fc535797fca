#include "qmpbackup/level_check.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <memory>

#include "qmpbackup/errors.hpp"
#include "qmpbackup/qemu_img.hpp"

namespace qmpbackup {
namespace {

using Kind = ImageRun::Kind;

/// As kWhatIsProved has them, whatever ended first.
std::vector<std::string> in_order(const std::vector<std::string>& proved) {
  std::vector<std::string> ordered;
  for (const CheckMeaning& meaning : kWhatIsProved) {
    if (std::find(proved.begin(), proved.end(), meaning.name) != proved.end()) {
      ordered.emplace_back(meaning.name);
    }
  }
  return ordered;
}

class LevelChecker {
 public:
  LevelChecker(EventLoop& loop, const std::vector<LevelView>& levels, const LevelCheckOptions& options,
               const std::function<void(ByteCount)>& on_progress,
               const std::function<void(std::size_t, const LevelVerdict&)>& on_verdict)
      : loop_(loop), levels_(levels), options_(options), on_progress_(on_progress), on_verdict_(on_verdict) {}

  void run() {
    plan();
    for (std::size_t i = 0; i < levels_.size(); ++i) {
      advance();
      if (!levels_[i].fault && levels_[i].record.sha256) {
        hash(i);
      }
      states_[i].hashed = true;
    }
    while (advance()) {
      loop_.wait_until([this] { return any_ended(); }, after(kLongestWork));
    }
  }

 private:
  struct State {
    LevelVerdict verdict;
    bool hashed = false;
    int runs_left = 0;
  };
  struct Task {
    std::size_t level;
    Kind kind;
  };
  struct Running {
    Task task;
    std::unique_ptr<ImageRun> run;
  };

  void plan() {
    states_.resize(levels_.size());
    for (std::size_t i = 0; i < levels_.size(); ++i) {
      const LevelView& level = levels_[i];
      if (level.fault) {
        states_[i].verdict.faults.push_back(*level.fault);
        continue;
      }
      states_[i].verdict.proved.emplace_back("file");
      const bool checked_at_commit = level.record.sha256 && level.record.checked && !options_.read;
      if ((options_.structure && !checked_at_commit) || !level.record.sha256) {
        add(i, Kind::kCheck);
      }
      // Else it was proved when the checksum was made.
      if (!level.record.sha256 && level.from_manifest && !level.record.was_made_elsewhere()) {
        add(i, Kind::kMap);
      }
      if (!level.record.sha256 && (options_.read || (options_.structure && level.record.was_made_elsewhere()))) {
        add(i, Kind::kRead);
      }
    }
  }

  void add(std::size_t level, Kind kind) {
    waiting_.push_back({level, kind});
    ++states_[level].runs_left;
  }

  /// Takes what has ended, starts what may.
  void work() {
    for (std::size_t i = 0; i < running_.size();) {
      if (running_[i].run->ended()) {
        const Running done = std::move(running_[i]);
        running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(i));
        judge(done);
      } else {
        ++i;
      }
    }
    while (!waiting_.empty() && running_.size() < limit_) {
      const Task task = waiting_.front();
      waiting_.pop_front();
      const LevelRecord& record = levels_[task.level].record;
      const bool started = note_fault(task.level, [&] {
        running_.push_back(
            {task, std::make_unique<ImageRun>(loop_, task.kind, levels_[task.level].path, record.virtual_size)});
      });
      states_[task.level].runs_left -= started ? 0 : 1;
    }
  }

  /// The same, and tells what is known. Whether anything is still to come.
  bool advance() {
    work();
    while (told_ < states_.size() && states_[told_].hashed && states_[told_].runs_left == 0) {
      LevelVerdict& verdict = states_[told_].verdict;
      verdict.proved = in_order(verdict.proved);
      on_verdict_(told_, verdict);
      ++told_;
    }
    return told_ < states_.size();
  }

  [[nodiscard]] bool any_ended() const {
    return std::any_of(running_.begin(), running_.end(), [](const Running& running) { return running.run->ended(); });
  }

  /// Runs a check; its error becomes a fault. Signals pass through, and what says nothing about the level.
  template <class Check>
  bool note_fault(std::size_t level, Check&& check) {
    try {
      check();
      return true;
    } catch (const Interrupted&) {
      throw;
    } catch (const ResourceError&) {
      throw;
    } catch (const Error& error) {
      states_[level].verdict.faults.emplace_back(error.what());
      return false;
    }
  }

  void prove(std::size_t level, const char* check) { states_[level].verdict.proved.emplace_back(check); }

  void judge(const Running& done) {
    const std::size_t level = done.task.level;
    --states_[level].runs_left;
    note_fault(level, [&] {
      done.run->finish();
      switch (done.task.kind) {
        case Kind::kCheck:
          prove(level, "structure");
          break;
        case Kind::kMap:
          refuse_incomplete(levels_[level].path, levels_[level].record, done.run->map());
          prove(level, "completeness");
          break;
        case Kind::kRead:
          prove(level, "read");
          break;
      }
    });
  }

  void hash(std::size_t level) {
    const LevelRecord& record = levels_[level].record;
    note_fault(level, [&] {
      const auto on_bytes = [&](ByteCount done) {
        on_progress_(hashed_ + done);
        loop_.poll();
        work();
      };
      if (sha256_of_file(levels_[level].path, on_bytes, options_.page_cache) != *record.sha256) {
        throw Error(fmt::format("{} is not what was committed: its SHA-256 differs", record.file));
      }
      prove(level, "sha256");
      if (record.checked && !options_.read) {
        prove(level, "structure");  // so it was when these bytes were committed
      }
      prove(level, "completeness");  // as well
    });
    hashed_ += record.file_size;
  }

  EventLoop& loop_;
  const std::vector<LevelView>& levels_;
  const LevelCheckOptions& options_;
  const std::function<void(ByteCount)>& on_progress_;
  const std::function<void(std::size_t, const LevelVerdict&)>& on_verdict_;
  std::vector<State> states_;
  std::deque<Task> waiting_;
  std::vector<Running> running_;
  std::size_t limit_ = processors();
  std::size_t told_ = 0;
  ByteCount hashed_ = 0;
};

}  // namespace

void refuse_incomplete(const std::string& path, const LevelRecord& record, const ImageMap& map) {
  const auto header = parse_qcow2_header(read_front(path, kQcow2HeaderBytes));
  if (map.end() != record.virtual_size ||
      !covers(map.present(), record.bytes_copied, record.virtual_size, header ? header->cluster_size : 0)) {
    throw Error(
        fmt::format("{} is not complete: it holds {} of {} bytes", record.file, map.present(), record.bytes_copied));
  }
}

void check_levels(EventLoop& loop, const std::vector<LevelView>& levels, const LevelCheckOptions& options,
                  const std::function<void(ByteCount)>& on_progress,
                  const std::function<void(std::size_t, const LevelVerdict&)>& on_verdict) {
  LevelChecker(loop, levels, options, on_progress, on_verdict).run();
}

}  // namespace qmpbackup
