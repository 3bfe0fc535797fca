#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "qmpbackup/event_loop.hpp"
#include "qmpbackup/image_map.hpp"
#include "qmpbackup/process.hpp"
#include "qmpbackup/qcow2_header.hpp"

namespace qmpbackup {

/// A file name inside a list of options such as -drive takes.
std::string with_doubled_commas(const std::string& name);

/// What `qemu-img convert -p` prints over and over, "(12.34/100%)", as a share from 0 to 1; nothing in other text.
std::optional<double> convert_progress(std::string_view piece);

/// Makes the file behind the descriptor `file` an empty image; no backing file is opened. `path` is for the error.
/// Blocks until done. Throws Error when qemu-img fails or is not done in time, and Interrupted.
void make_image(EventLoop& loop, int file, const std::string& path, const ImageFormat& format, Deadline deadline);

// qemu-img on whole chains.

/// How qemu-img finds the levels below another one.
enum class BelowBy {
  kLinks,  ///< by the backing links: they must be right. Opening a chain of 200 levels takes no time
  kNames,  ///< by names that are given: for links that lead elsewhere. Takes seconds for 200 levels
};

/// A level with everything below it, as a name for qemu-img. `paths`: absolute, the full's first. Throws ResourceError
/// where qemu-img may not open so many files: what it says then looks like damage.
std::string chain_image(const std::vector<std::string>& paths, BelowBy below_by);

/// Reads every cluster that a level shows, through the whole chain, decompressing. Throws Error where one cannot be
/// read.
void read_chain_image(EventLoop& loop, const std::vector<std::string>& paths, BelowBy below_by, ByteCount virtual_size);

// qemu-img on single level files: without their backing files, read-only, whatever they are called.

/// Runs beside this program, and beside others of its kind. The destructor ends it.
class ImageRun {
 public:
  enum class Kind {
    kCheck,  ///< `qemu-img check`: the structure; leaked clusters are harmless and pass
    kMap,    ///< `qemu-img map`: what the file itself holds
    kRead,   ///< reads every cluster that the file itself holds, decompressing
  };

  /// `virtual_size`: of the disk, for kRead. Throws Error when it cannot be started.
  ImageRun(EventLoop& loop, Kind kind, const std::string& path, ByteCount virtual_size);
  ImageRun(const ImageRun&) = delete;
  ImageRun& operator=(const ImageRun&) = delete;

  [[nodiscard]] bool ended() const { return process_.ended(); }
  /// Waits for its end. Throws Error with qemu-img's own words when it fails, and Interrupted.
  void finish();
  /// What a kMap found; valid after finish().
  [[nodiscard]] const ImageMap& map() const { return map_; }

 private:
  Kind kind_;
  std::string path_;
  ImageMap map_;
  std::string words_;    ///< the front of what kCheck says
  std::string problem_;  ///< with what kMap says
  Process process_;
};

// The same, waiting. All block until done, and throw as ImageRun does.

/// What a qcow2 file itself holds.
ImageMap map_image(EventLoop& loop, const std::string& path);

/// Reads every cluster that the file itself holds, decompressing. Throws Error where one cannot be read.
void read_image(EventLoop& loop, const std::string& path, ByteCount virtual_size);

}  // namespace qmpbackup
