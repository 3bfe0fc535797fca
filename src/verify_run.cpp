#include "qmpbackup/verify_run.hpp"

#include <fmt/format.h>

#include "qmpbackup/chain_reader.hpp"
#include "qmpbackup/chain_view.hpp"
#include "qmpbackup/errors.hpp"
#include "qmpbackup/files.hpp"
#include "qmpbackup/merge_finisher.hpp"
#include "qmpbackup/process.hpp"
#include "qmpbackup/qemu_img.hpp"

namespace qmpbackup {
namespace {

using nlohmann::json;

/// Runs a check; its error becomes a fault. Signals and the like pass through.
template <class Check>
void note_fault(std::vector<std::string>& faults, Check&& check) {
  try {
    check();
  } catch (const Interrupted&) {
    throw;
  } catch (const Error& error) {
    faults.emplace_back(error.what());
  }
}

class Verifier {
 public:
  Verifier(EventLoop& loop, Reporter& reporter, const ChainFiles& files)
      : loop_(loop),
        reporter_(reporter),
        files_(files),
        chain_(read_chain(loop, files)),
        levels_(view_chain(chain_, files)) {
    for (const LevelView& level : levels_) {
      bytes_total_ += level.record.file_size;
    }
  }

  void run(bool deep) {
    if (levels_.empty() && chain_.manifest_state == ManifestState::kAbsent) {
      throw ChainError(fmt::format("there is no chain at {}", files_.base()),
                       "give the -backupFile that the backups were made with");
    }
    for (LevelView& level : levels_) {
      verify_level(level);
    }
    if (deep) {
      read_newest();
    }
    finish();
  }

 private:
  void verify_level(LevelView& level) {
    std::vector<std::string> faults;
    std::vector<std::string> proved;
    if (level.fault) {
      faults.push_back(*level.fault);
    } else {
      proved.emplace_back("size");
      proved.emplace_back("backing link");
      check_content(level.record, faults, proved);
      check_structure(level, faults, proved);
    }
    bytes_done_ += level.record.file_size;
    reporter_.end_progress();
    const std::string verdict = faults.empty() ? "ok" : "damaged";
    if (reporter_.json()) {
      reporter_.json_line({{"message_type", "level"},
                           {"level", level.record.level.number},
                           {"file", level.record.file},
                           {"verdict", verdict},
                           {"proved", proved},
                           {"faults", faults}});
    } else {
      reporter_.line(fmt::format(
          "{:<6} {:<8} {}", level_name(level.record.level), verdict,
          faults.empty() ? fmt::format("{}", fmt::join(proved, ", ")) : fmt::format("{}", fmt::join(faults, "; "))));
    }
    if (!faults.empty()) {
      level.fault = faults.front();
      ++damaged_;
    }
  }

  void check_content(const LevelRecord& record, std::vector<std::string>& faults, std::vector<std::string>& proved) {
    if (!record.sha256) {
      return;
    }
    note_fault(faults, [&] {
      const std::string actual = sha256_of_file(files_.level_path(record.level), [&](ByteCount done) {
        progress_.update(bytes_done_ + done, bytes_total_, std::chrono::steady_clock::now());
        reporter_.progress(progress_);
        loop_.poll();
      });
      if (actual != *record.sha256) {
        throw Error(fmt::format("{} is not what was committed: its SHA-256 differs", record.file));
      }
      proved.emplace_back("sha256");
    });
  }

  void check_structure(const LevelView& level, std::vector<std::string>& faults, std::vector<std::string>& proved) {
    const std::string path = files_.level_path(level.record.level);
    note_fault(faults, [&] {
      check_image(loop_, path);
      proved.emplace_back("structure");
    });
    note_fault(faults, [&] {
      const ImageMap map = map_image(loop_, path);
      const ByteCount cluster = chain_.file_of(level.record.level)->header->cluster_size;
      if (map.end() != level.record.virtual_size ||
          (level.from_manifest &&
           !covers(map.present(), level.record.bytes_copied, level.record.virtual_size, cluster))) {
        throw Error(fmt::format("{} is not complete: it holds {} of {} bytes", level.record.file, map.present(),
                                level.record.bytes_copied));
      }
      proved.emplace_back("completeness");
    });
  }

  /// Reads the newest level as a restore would.
  void read_newest() {
    const auto newest = newest_good(levels_);
    if (!newest) {
      return;
    }
    std::vector<std::string> paths;
    for (std::size_t i = 0; i <= *index_of(levels_, *newest); ++i) {
      paths.push_back(files_.level_path(levels_[i].record.level));
    }
    std::vector<std::string> faults;
    note_fault(faults, [&] { read_chain_image(loop_, paths, levels_.at(paths.size() - 1).record.virtual_size); });
    if (!faults.empty()) {
      levels_.at(paths.size() - 1).fault = faults.front();
      ++damaged_;
    }
    if (!reporter_.json()) {
      reporter_.line(
          fmt::format("{:<6} {:<8} {}", level_name(*newest), faults.empty() ? "ok" : "damaged",
                      faults.empty() ? "every cluster read and decompressed through the chain" : faults.front()));
    }
  }

  void finish() {
    const auto newest = newest_good(levels_);
    const bool manifest_damaged =
        chain_.manifest_state == ManifestState::kDamaged || chain_.manifest_state == ManifestState::kTooNew;
    if (chain_.manifest_state != ManifestState::kGood) {
      reporter_.warning(fmt::format("{} is {}: sizes, checksums and completeness cannot be compared with it",
                                    files_.manifest_path(),
                                    manifest_damaged ? "unreadable (" + chain_.manifest_problem + ")" : "missing"));
    }
    json summary{{"command", "verify"},
                 {"base", files_.base()},
                 {"levels", levels_.size()},
                 {"damaged", damaged_},
                 {"newest_good", newest ? json(newest->number) : json(nullptr)}};
    std::vector<std::string> lines;
    if (newest) {
      lines.push_back(fmt::format("restores: full{}", newest->is_full() ? "" : " to " + level_name(*newest)));
    }
    const std::size_t good = newest ? *index_of(levels_, *newest) + 1 : 0;
    if (good < levels_.size()) {
      lines.push_back(fmt::format("does not restore: {}{}", level_name(levels_[good].record.level),
                                  good + 1 == levels_.size() ? "" : " to " + level_name(levels_.back().record.level)));
    }
    if (damaged_ == 0 && !manifest_damaged) {
      reporter_.result(lines, std::move(summary));
      return;
    }
    for (const std::string& line : reporter_.json() ? std::vector<std::string>{} : lines) {
      reporter_.line(line);
    }
    throw DamageFound(
        fmt::format("{}: {}", files_.base(),
                    damaged_ > 0 ? fmt::format("{} of {} levels are damaged", damaged_, levels_.size())
                    : chain_.manifest_state == ManifestState::kTooNew ? "the manifest was written by a newer qmpbackup"
                                                                      : "the manifest is damaged"),
        newest
            ? fmt::format("the newest level that restores is {}; take a new full with -inc auto", level_name(*newest))
            : "nothing restores from here; take a new full");
  }

  EventLoop& loop_;
  Reporter& reporter_;
  const ChainFiles& files_;
  ChainOnDisk chain_;
  std::vector<LevelView> levels_;
  Progress progress_{"verify", {}, std::chrono::steady_clock::now()};
  ByteCount bytes_total_ = 0;
  ByteCount bytes_done_ = 0;
  std::size_t damaged_ = 0;
};

}  // namespace

void run_verify(EventLoop& loop, Reporter& reporter, const ChainFiles& files, bool deep) {
  finish_merge_if_pending(files);
  Verifier(loop, reporter, files).run(deep);
}

}  // namespace qmpbackup
