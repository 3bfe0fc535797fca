#pragma once

#include <optional>
#include <string>

#include "qmpbackup/chain_files.hpp"
#include "qmpbackup/event_loop.hpp"
#include "qmpbackup/reporter.hpp"

namespace qmpbackup {

struct RestoreRequest {
  ChainFiles files;
  std::optional<Level> level{};     ///< nothing: the newest, or that of `at`
  std::optional<std::string> at{};  ///< RFC 3339 in UTC: the newest level not after it
  std::string output{};             ///< a new file or a block device; of no use for an export
  std::optional<std::string>
      export_socket{};           ///< serve the level over NBD on this new UNIX socket instead of copying it
  std::string format = "qcow2";  ///< or "raw"
  bool format_given = false;     ///< a block device gets raw, and nothing else may have been asked for
  bool checksums = true;         ///< compare them; without, of damaged data only what qemu-img notices is found
  bool overlay = false;          ///< a new qcow2 on top of the level instead of a copy
  bool force = false;            ///< `output` may be a block device, and is overwritten
};

/// Restores a level into a new file (temporary name, fsync, rename: never half a file under `output`), or onto a block
/// device. The chain is looked at first, and the SHA-256 of every file is compared while qemu-img copies, for a device
/// before its first byte is written: a damaged chain gives no output, and the error names the newest level that is
/// good. Needs no lock and no right to write into the chain; where another run changes it meanwhile, begins again.
/// Throws ChainError, FileError, ChainBusy, Interrupted. An export runs until a signal comes, which is its normal end;
/// one that comes before it is served is Interrupted.
void run_restore(EventLoop& loop, Reporter& reporter, const RestoreRequest& request);

}  // namespace qmpbackup
