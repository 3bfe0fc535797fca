#include "qmpbackup/verify_run.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "qmpbackup/chain_reader.hpp"
#include "qmpbackup/chain_watch.hpp"
#include "qmpbackup/checksums.hpp"
#include "qmpbackup/clock.hpp"
#include "qmpbackup/errors.hpp"
#include "qmpbackup/level_check.hpp"
#include "qmpbackup/merge_finisher.hpp"
#include "qmpbackup/qemu_img.hpp"

namespace qmpbackup {
namespace {

using nlohmann::json;

class Verifier {
 public:
  Verifier(EventLoop& loop, Reporter& reporter, const ChainFiles& files, const ChainWatch& watch)
      : loop_(loop),
        reporter_(reporter),
        files_(files),
        watch_(watch),
        chain_(read_chain_to_restore(loop, files)),
        levels_(view_with_checksums(chain_, files)) {
    for (const LevelView& level : levels_) {
      bytes_total_ += level.record.sha256 && !level.fault ? level.record.file_size : 0;
      name_width_ = std::max(name_width_, level_name(level.record.level).size());
    }
  }

  void run(bool deep, bool again) {
    if (levels_.empty() && chain_.manifest_state == ManifestState::kAbsent) {
      throw no_chain_at(files_);
    }
    if (levels_.empty() && chain_.manifest) {
      throw ChainError(fmt::format("{} has no level yet, and nothing restores from it", files_.base()),
                       is_held_by_a_run(files_) ? "its first full is being taken now"
                                                : "its first full was not finished; run the backup again");
    }
    if (again) {
      reporter_.note(fmt::format("{} was changed by another run meanwhile: checking it again", files_.base()));
      if (reporter_.json()) {  // what was said of levels before does not count any more
        reporter_.json_line({{"message_type", "restart"}, {"base", files_.base()}});
      }
    } else {
      warn();
    }
    check_levels(
        loop_, levels_, {.read = deep || chain_.manifest_state != ManifestState::kGood},
        [this](ByteCount done) {
          progress_.update(done, bytes_total_, std::chrono::steady_clock::now());
          reporter_.progress(progress_);
        },
        [this](std::size_t index, const LevelVerdict& verdict) { tell(index, verdict); });
    if (deep) {
      read_newest();
    }
    finish();
  }

 private:
  /// Damage that is not of one level.
  [[nodiscard]] std::string fault_of_manifest() const {
    if (chain_.manifest_state == ManifestState::kTooNew) {
      return "the manifest was written by a newer qmpbackup";
    }
    if (chain_.manifest_state == ManifestState::kDamaged) {
      return "the manifest is damaged";
    }
    const auto beyond = file_beyond_manifest(chain_, files_);
    return beyond ? *beyond + " is not in the manifest, which may be an older copy" : "";
  }

  [[nodiscard]] bool manifest_is_unreadable() const {
    return chain_.manifest_state == ManifestState::kDamaged || chain_.manifest_state == ManifestState::kTooNew;
  }

  /// What is no damage, and yet not as it should be.
  void warn() const {
    if (chain_.manifest_state != ManifestState::kGood) {
      reporter_.warning(fmt::format(
          "{} is {}: {}", files_.manifest_path(),
          manifest_is_unreadable() ? "unreadable (" + chain_.manifest_problem + ")" : "missing",
          exists(files_.checksums_path()) ? "comparing with " + files_.checksums_path()
                                          : "missing newest levels and changed bytes of data cannot be seen"));
    }
    for (const LevelView& level : levels_) {
      const LevelFile* file = chain_.file_of(level.record.level);
      if (file != nullptr && file->is_link) {
        reporter_.warning(
            fmt::format("{} is a link: a copy of the folder does not hold this level", level.record.file));
      }
      if (file != nullptr && file->others_may_write) {
        reporter_.warning(fmt::format("{} can be written by others (chmod go-w)", level.record.file));
      }
    }
  }

  void tell(std::size_t index, const LevelVerdict& verdict) {
    LevelView& level = levels_[index];
    const bool ok = verdict.faults.empty();
    proved_.insert(verdict.proved.begin(), verdict.proved.end());
    if (!ok) {
      watch_.throw_if_changed();
      level.fault = verdict.faults.front();
      ++damaged_;
      if (is_without_right(chain_, level)) {
        ++unreadable_;
      } else if (first_damage_.empty()) {
        first_damage_ = *level.fault;
      }
    }
    if (reporter_.json()) {
      reporter_.end_progress();
      reporter_.json_line({{"message_type", "level"},
                           {"level", level.record.level.number},
                           {"file", level.record.file},
                           {"time", is_time_known(level) ? json(level.record.time) : json(nullptr)},
                           {"verdict", ok                                ? "ok"
                                       : is_without_right(chain_, level) ? "unreadable"
                                                                         : "damaged"},
                           {"proved", verdict.proved},
                           {"faults", verdict.faults}});
      return;
    }
    print(fmt::format("{:<{}}  {}", level_name(level.record.level), name_width_,
                      ok                                ? fmt::format("ok       {}", fmt::join(verdict.proved, ", "))
                      : is_without_right(chain_, level) ? "UNREADABLE"
                                                        : "DAMAGED"));
    for (const std::string& fault : verdict.faults) {
      print(fmt::format("{:<{}}  {}", "", name_width_, fault));
    }
  }

  void print(const std::string& text) const {
    if (!reporter_.quiet() && !reporter_.json()) {
      reporter_.line(text);
    }
  }

  /// Reads the newest level as a restore would.
  void read_newest() {
    const auto newest = newest_good(levels_);
    if (!newest) {
      return;
    }
    const std::size_t top = *index_of(levels_, *newest);
    std::vector<std::string> paths;
    for (std::size_t i = 0; i <= top; ++i) {
      paths.push_back(std::filesystem::absolute(levels_[i].path).string());
    }
    try {
      const BelowBy below_by = links_stay_in_folder(chain_, levels_) ? BelowBy::kLinks : BelowBy::kNames;
      read_chain_image(loop_, paths, below_by, levels_[top].record.virtual_size);
      print(fmt::format("{:<{}}  ok       every cluster was read through the whole chain, and decompressed",
                        level_name(*newest), name_width_));
    } catch (const Interrupted&) {
      throw;
    } catch (const ResourceError&) {
      throw;
    } catch (const Error& error) {
      tell(top, {{error.what()}, {}});
    }
  }

  [[nodiscard]] bool is_time_known(const LevelView& level) const {
    return level.from_manifest || chain_.file_of(level.record.level) != nullptr;
  }

  [[nodiscard]] std::string range(std::size_t first, std::size_t last) const {
    const std::string name = level_name(levels_[first].record.level);
    return first == last ? name : fmt::format("{} to {}", name, level_name(levels_[last].record.level));
  }

  [[nodiscard]] std::string times(std::size_t first, std::size_t last) const {
    const std::string from = is_time_known(levels_[first]) ? format_local(levels_[first].record.time) : "?";
    const std::string to = is_time_known(levels_[last]) ? format_local(levels_[last].record.time) : "?";
    return first == last ? from : fmt::format("{} to {}", from, to);
  }

  /// Which points in time restore, and which do not.
  [[nodiscard]] std::vector<std::string> points_in_time(std::size_t good) const {
    std::vector<std::string> lines;
    if (good > 0) {
      lines.push_back("restores: " + range(0, good - 1));
      lines.push_back("          " + times(0, good - 1));
    }
    if (good < levels_.size()) {
      lines.push_back("does not restore: " + range(good, levels_.size() - 1));
      lines.push_back("                  " + times(good, levels_.size() - 1));
    }
    return lines;
  }

  void finish() {
    reporter_.end_progress();
    const auto newest = newest_good(levels_);
    const std::size_t good = newest ? *index_of(levels_, *newest) + 1 : 0;
    std::vector<std::string> lines = points_in_time(good);
    for (const CheckMeaning& meaning : kWhatIsProved) {
      if (proved_.contains(meaning.name)) {
        lines.push_back(fmt::format("{:<13} {}", fmt::format("{}:", meaning.name), meaning.proves));
      }
    }
    const json found{{"base", files_.base()},
                     {"levels", levels_.size()},
                     {"damaged", damaged_ - unreadable_},
                     {"unreadable", unreadable_},
                     {"newest_good", newest ? json(newest->number) : json(nullptr)}};
    const std::string fault = fault_of_manifest();
    if (damaged_ == 0 && fault.empty()) {
      json summary = found;
      summary["command"] = "verify";
      reporter_.result(lines, std::move(summary));
      return;
    }
    for (const std::string& line : lines) {
      print(line);
    }
    if (damaged_ == 0 && chain_.manifest_state == ManifestState::kTooNew) {
      throw ChainError(fmt::format("{}: the levels are sound, but {} was written by a newer qmpbackup and not checked",
                                   files_.base(), files_.manifest_path()),
                       "use the newer qmpbackup");
    }
    if (reporter_.json()) {  // the last line is the error's
      json damage = found;
      damage["message_type"] = "damage";
      reporter_.json_line(damage);
    }
    if (damaged_ == unreadable_ && fault.empty()) {
      throw FileError(fmt::format("{}: {} of {} levels cannot be opened: nothing is known of them", files_.base(),
                                  unreadable_, levels_.size()),
                      kNoRightHint);
    }
    throw DamageFound(
        fmt::format("{}: {}", files_.base(),
                    damaged_ > unreadable_ ? fmt::format("{} of {} levels damaged: {}", damaged_ - unreadable_,
                                                         levels_.size(), first_damage_)
                                           : fault),
        fmt::format("{}; {}",
                    newest ? "the newest level that restores is " + level_name(*newest) : "nothing restores from here",
                    ChainFiles(std::filesystem::absolute(files_.base()).string()).is_archived()
                        ? "an earlier chain: nothing is added to it any more"
                    : chain_.manifest_state == ManifestState::kTooNew ? "use the newer qmpbackup"
                    : chain_.manifest_state == ManifestState::kGood && fault.empty() && !fault_of_chain(chain_, files_)
                        ? "for a new full: the backup command with -cleanBitmap, then with -inc auto"
                        : "put back what is missing, or for a new full: the backup command with -inc auto"));
  }

  EventLoop& loop_;
  Reporter& reporter_;
  const ChainFiles& files_;
  const ChainWatch& watch_;
  ChainOnDisk chain_;
  std::vector<LevelView> levels_;
  std::set<std::string> proved_;
  std::size_t name_width_ = 0;
  Progress progress_{"verify", {}, std::chrono::steady_clock::now()};
  ByteCount bytes_total_ = 0;
  std::size_t damaged_ = 0;
  std::size_t unreadable_ = 0;  ///< of these
  std::string first_damage_;    ///< of the others
};

}  // namespace

void run_verify(EventLoop& loop, Reporter& reporter, const ChainFiles& files, bool deep) {
  finish_merge_if_possible(files);
  for_steady_chain(loop, files, [&](const ChainWatch& watch, int attempt) {
    Verifier(loop, reporter, files, watch).run(deep, attempt > 0);
  });
}

}  // namespace qmpbackup
