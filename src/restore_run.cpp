#include "qmpbackup/restore_run.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>

#include "qmpbackup/arguments.hpp"
#include "qmpbackup/chain_reader.hpp"
#include "qmpbackup/chain_watch.hpp"
#include "qmpbackup/checksums.hpp"
#include "qmpbackup/clock.hpp"
#include "qmpbackup/errors.hpp"
#include "qmpbackup/files.hpp"
#include "qmpbackup/folders.hpp"
#include "qmpbackup/level_check.hpp"
#include "qmpbackup/merge_finisher.hpp"
#include "qmpbackup/nbd_export.hpp"
#include "qmpbackup/new_file.hpp"
#include "qmpbackup/process.hpp"
#include "qmpbackup/qemu_img.hpp"

namespace qmpbackup {
namespace {

class Restore {
 public:
  Restore(EventLoop& loop, Reporter& reporter, const RestoreRequest& request, const ChainWatch& watch)
      : loop_(loop),
        reporter_(reporter),
        request_(request),
        watch_(watch),
        chain_(read_chain_to_restore(loop, request.files)),
        levels_(view_with_checksums(chain_, request.files)) {}

  void run() {
    choose_level();
    refuse_faults();
    for (LevelView& level : levels_) {
      level.record.sha256 = request_.checksums ? level.record.sha256 : std::nullopt;
    }
    if (request_.export_socket) {
      serve();
      return;
    }
    output_ = std::filesystem::absolute(request_.output).string();  // begins with '/': no name is taken for a protocol
    const auto device_size = block_device_size(output_);
    if (request_.overlay) {
      refuse_existing_output();
      make_overlay();
    } else if (device_size) {
      onto_device_ = true;
      write_device(*device_size);
    } else {
      refuse_existing_output();
      write_file();
    }
    report();
  }

 private:
  [[nodiscard]] const LevelRecord& chosen() const { return levels_.back().record; }

  /// Leaves in levels_ those that the restore reads.
  void choose_level() {
    all_levels_ = levels_;
    levels_.resize(level_to_restore(chain_, request_.files, levels_, request_.level, request_.at) + 1);
  }

  void refuse_faults() const {
    for (const LevelView& level : levels_) {
      if (level.fault) {
        refuse_damage(*level.fault, newest_good(all_levels_), is_without_right(chain_, level));
      }
    }
  }

  /// A chain without its manifest restores, with less certainty.
  void warn() const {
    if (const auto beyond = file_beyond_manifest(chain_, request_.files)) {
      reporter_.warning(
          fmt::format("{} is not in the manifest, which may be an older copy: newer levels are known by their "
                      "files alone",
                      *beyond));
    }
    if (chain_.manifest_state == ManifestState::kGood) {
      return;
    }
    const bool checksums = std::all_of(levels_.begin(), levels_.end(),
                                       [](const LevelView& level) { return level.record.sha256.has_value(); });
    reporter_.warning(fmt::format("{} is {}: {}", request_.files.manifest_path(),
                                  chain_.manifest_state == ManifestState::kAbsent ? "missing" : "unreadable",
                                  request_.at ? "the times are those of the files"
                                  : checksums ? "comparing with the checksums of " + request_.files.checksums_path()
                                              : "a damaged byte in the data cannot be noticed"));
  }

  /// `no_right`: only the right to read the level is wanting.
  [[noreturn]] void refuse_damage(const std::string& fault, std::optional<Level> good, bool no_right = false) const {
    std::string hint = no_right ? std::string(kNoRightHint) + (good ? "; " : "") : "";
    hint += good       ? fmt::format("the newest level that is good: {} (-inc {})", level_name(*good), good->number)
            : no_right ? ""
                       : "no level of this chain can be restored";
    if (chosen().sha256 && !levels_.front().from_manifest) {
      hint += fmt::format("; if {} may be older than the files: --no-checksum", request_.files.checksums_path());
    }
    if (file_beyond_manifest(chain_, request_.files)) {
      hint += fmt::format("; to go by the files alone, move {} away", request_.files.manifest_path());
    }
    throw ChainError(
        fmt::format("{}: level {} cannot be restored: {}", request_.files.base(), level_name(chosen().level), fault),
        hint);
  }

  void refuse_existing_output() const {
    if (exists(output_)) {
      throw ChainError(
          fmt::format("{} exists already, and nothing is overwritten", output_),
          request_.force ? "--force is for block devices alone; give another --output" : "give another --output");
    }
    const std::filesystem::path path(output_);
    if (!is_folder(path.parent_path().string())) {
      throw ChainError(fmt::format("there is no folder for {}", output_), "create it");
    }
    const std::string name = path.filename().string();
    if (std::filesystem::equivalent(path.parent_path(), request_.files.folder()) &&
        (request_.files.level_of_file(name) || request_.files.level_of_partial(name))) {
      throw ChainError(fmt::format("{} is the name of a level of the chain", output_), "give another --output");
    }
  }

  [[nodiscard]] std::vector<std::string> paths() const {
    std::vector<std::string> paths;
    for (const LevelView& level : levels_) {
      paths.push_back(std::filesystem::absolute(level.path).string());
    }
    return paths;
  }

  [[nodiscard]] std::string image() const {
    return chain_image(paths(), links_stay_in_folder(chain_, levels_) ? BelowBy::kLinks : BelowBy::kNames);
  }

  void serve() {
    const std::string socket = std::filesystem::absolute(*request_.export_socket).string();
    serve_over_nbd(loop_, image(), socket, [&] {
      watch_.throw_if_changed();
      warn();
      const std::string uri = shell_quoted(nbd_uri(socket));
      reporter_.result(
          {fmt::format("{}: {} from {} is served read-only until ctrl-c", request_.files.base(),
                       level_name(chosen().level), format_local(chosen().time)),
           "its data was not read before: if in doubt, qmpbackup verify",
           "mount its file systems:  guestmount --ro -a " + uri + " -i /mnt",
           "as a file:               nbdfuse /mnt/disk " + uri,
           "as a block device:       qemu-nbd -r -c /dev/nbd0 " + uri, "look into it:            qemu-img info " + uri},
          {{"command", "export"},
           {"base", request_.files.base()},
           {"level", chosen().level.number},
           {"time", chosen().time},
           {"socket", socket}});
    });
  }

  void make_overlay() {
    if (!std::all_of(levels_.begin(), levels_.end(), [&](const LevelView& level) {
          return level.path == request_.files.level_path(level.record.level);
        })) {
      throw ChainError(fmt::format("{}: files of the chain are being put in place, an overlay would lose them",
                                   request_.files.base()),
                       "leave --overlay out, or try again when the run has ended");
    }
    if (!links_stay_in_folder(chain_, levels_)) {
      throw ChainError(
          fmt::format("{}: a backing link leads out of the chain's folder, and the overlay would follow it",
                      request_.files.base()),
          "leave --overlay out: a copy takes the levels from the folder");
    }
    make_file([this](NewFile& file) {
      const auto result = run_process(
          loop_, {"qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", paths().back(), kInheritedFile},
          file.fd(), after(kLongestWork), [](std::string_view) {});
      if (result.exit_code != 0) {
        throw Error(fmt::format("qemu-img create failed on {}: {}", output_, result.reason()));
      }
      watch_.throw_if_changed();
    });
  }

  void write_file() {
    make_file([this](NewFile& file) {
      const bool direct = file.takes_direct_io();
      const std::vector<std::string> into_new_file{"-O",    request_.format, "-t", direct ? "none" : "unsafe",
                                                   image(), kInheritedFile};
      std::unique_ptr<Process> convert;
      if (direct && request_.format == "raw") {
        file.set_size(chosen().virtual_size);
        convert = start_raw_copy("file", kInheritedFile, file.fd(), into_new_file);
      } else {
        convert = start_copy(into_new_file, file.fd());
      }
      refuse_damaged_content({.page_cache = PageCache::kShare, .structure = false});
      finish(*convert);
    });
  }

  /// Lets `fill` write a file, which gets the output's name when it is complete and on disk.
  void make_file(const std::function<void(NewFile&)>& fill) {
    NewFile file(output_);
    try {
      fill(file);
    } catch (const Interrupted& signal) {
      reporter_.end_progress();
      throw Interrupted(signal.signal_number(), "nothing is left of the output");
    } catch (const std::exception&) {
      reporter_.end_progress();
      throw;
    }
    file.keep();
  }

  /// O_EXCL on a block device: refused while it is mounted or otherwise in use (open(2)).
  [[nodiscard]] UniqueFd claim_device() const {
    try {
      return open_file(output_, O_RDWR | O_EXCL);
    } catch (const FileError& error) {
      throw ChainError(error.what(), "it must be writable, and neither mounted nor in use otherwise");
    }
  }

  void write_device(ByteCount size) {
    if (!request_.force) {
      throw ChainError(fmt::format("{} is a block device: its content would be lost", output_),
                       "say --force if that is meant");
    }
    if (request_.format_given && request_.format != "raw") {
      throw UsageError(fmt::format("{} is a block device, which gets the disk as it is: raw", output_),
                       "leave --format out");
    }
    if (size < chosen().virtual_size) {
      throw ChainError(
          fmt::format("{} is too small: it has {} bytes, the disk has {}", output_, size, chosen().virtual_size),
          "give a larger device");
    }
    const UniqueFd claim = claim_device();
    // There is no way back from the first byte that is written: what would stop the copy is looked for before it.
    progress_ = Progress("restore", "checksum", std::chrono::steady_clock::now());
    refuse_damaged_content({.page_cache = PageCache::kShare, .structure = true, .read = true});
    progress_ = Progress("restore", {}, std::chrono::steady_clock::now());
    try {
      finish(*start_raw_copy("host_device", output_, -1, {"-n", "-O", "raw", "-t", "none", image(), output_}));
      sync_file(output_);
    } catch (const std::exception&) {
      reporter_.warning(fmt::format("{} holds an unfinished copy, and what it held before is gone", output_));
      throw;
    }
  }

  std::unique_ptr<Process> start_copy(const std::vector<std::string>& more, int inherited) {
    std::vector<std::string> argv{"qemu-img", "convert", "-p", "-W", "-m", "16"};
    argv.insert(argv.end(), more.begin(), more.end());
    return std::make_unique<Process>(loop_, argv, inherited, [this](std::string_view piece) { show_progress(piece); });
  }

  /// To a raw image that is there, around the page cache: with Linux AIO, which is faster than QEMU's threads (for
  /// qcow2 it is not). Where that does not begin to copy, as `otherwise` says: QEMU may be built without it, the host
  /// may have no AIO context left, and the image's size may be none for direct access.
  std::unique_ptr<Process> start_raw_copy(const std::string& driver, const std::string& output, int inherited,
                                          const std::vector<std::string>& otherwise) {
    auto convert = start_copy(
        {"-n", "--target-image-opts", image(),
         fmt::format("driver=raw,cache.direct=on,file.driver={},file.cache.direct=on,file.aio=native,file.filename={}",
                     driver, with_doubled_commas(output))},
        inherited);
    loop_.wait_until([&] { return opened_ || convert->ended(); }, after(kLongestWork));
    return opened_ ? std::move(convert) : start_copy(otherwise, inherited);
  }

  /// Waits for the copy.
  void finish(Process& convert) {
    const ProcessResult result = convert.wait(after(kLongestWork));
    reporter_.end_progress();
    if (opened_while_changing_) {
      watch_.throw_if_changed();
    }
    if (result.exit_code != 0) {
      refuse_damaged_content({.page_cache = PageCache::kShare, .structure = true, .read = true});
      throw Error(fmt::format("qemu-img convert to {} failed: {}", output_, result.reason()),
                  "no damage is seen in the chain: check the output's storage and free space");
    }
  }

  void refuse_damaged_content(const LevelCheckOptions& options) {
    ByteCount total = 0;
    for (const LevelView& level : levels_) {
      total += level.record.sha256 ? level.record.file_size : 0;
    }
    check_levels(
        loop_, levels_, options,
        [&](ByteCount done) {
          if (progress_.activity() == "checksum") {
            progress_.update(done, total, std::chrono::steady_clock::now());
            reporter_.progress(progress_);
          }
        },
        [this](std::size_t index, const LevelVerdict& verdict) {
          if (!verdict.faults.empty()) {
            refuse_damage(verdict.faults.front(),
                          index == 0 ? std::nullopt : std::optional(levels_[index - 1].record.level));
          }
        });
  }

  void show_progress(std::string_view piece) {
    const auto share = convert_progress(piece);
    if (!share) {
      return;
    }
    if (*share > 0 && !opened_) {  // it shows 0 before it opens anything; what it has open stays as it is
      opened_ = true;
      opened_while_changing_ = watch_.changed();
    }
    const auto done = static_cast<ByteCount>(*share * static_cast<double>(chosen().virtual_size));
    progress_.update(done, chosen().virtual_size, std::chrono::steady_clock::now());
    reporter_.progress(progress_);
  }

  void report() {
    warn();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    const std::string format = request_.overlay ? "qcow2" : onto_device_ ? "raw" : request_.format;
    const std::string drive = fmt::format("file={},format={},if=virtio", with_doubled_commas(output_), format);
    std::vector<std::string> lines{
        fmt::format("{}: {} from {} -> {}", request_.files.base(), level_name(chosen().level),
                    format_local(chosen().time), output_),
        fmt::format("{} disk, {}", format_size(chosen().virtual_size), format_seconds(seconds)),
        fmt::format("start a VM from it: qemu-system-x86_64 -m 2G -drive {}", shell_quoted(drive))};
    nlohmann::json summary{{"command", "restore"},
                           {"base", request_.files.base()},
                           {"level", chosen().level.number},
                           {"time", chosen().time},
                           {"output", output_},
                           {"format", format},
                           {"virtual_size", chosen().virtual_size},
                           {"seconds", seconds},
                           {"overlay", request_.overlay}};
    if (request_.overlay) {
      const std::string command = "qemu-img rebase -f qcow2 -b '' " + shell_quoted(output_);
      lines.emplace_back("until it is independent: no merge, no new full, no moving of the chain");
      lines.push_back("make it independent, with the VM off: " + command);
      summary["make_independent"] = command;
    }
    reporter_.result(lines, std::move(summary));
  }

  EventLoop& loop_;
  Reporter& reporter_;
  const RestoreRequest& request_;
  const ChainWatch& watch_;
  ChainOnDisk chain_;
  std::vector<LevelView> levels_;
  std::vector<LevelView> all_levels_;
  std::string output_;
  bool onto_device_ = false;
  bool opened_ = false;                 ///< qemu-img has opened the chain
  bool opened_while_changing_ = false;  ///< perhaps not the files that the checksums are of
  Progress progress_{"restore", {}, std::chrono::steady_clock::now()};
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

void run_restore(EventLoop& loop, Reporter& reporter, const RestoreRequest& request) {
  finish_merge_if_possible(request.files);
  for_steady_chain(loop, request.files,
                   [&](const ChainWatch& watch, int) { Restore(loop, reporter, request, watch).run(); });
}

}  // namespace qmpbackup
