#pragma once

#include <optional>
#include <string>

#include "qmpbackup/chain_files.hpp"
#include "qmpbackup/connection.hpp"

namespace qmpbackup {

struct CleanBitmapRequest {
  Connection connection;
  std::string device;
  std::optional<ChainFiles> files;  ///< nothing: those of all chains
  bool dry_run = false;
};

/// Removes this program's bitmaps from a device: all of them and the Go tool's `bitmap0`, or those of one chain alone
/// (`bitmap0` where the chain has no manifest of ours). What runs of these chains left in QEMU goes too. Those on a
/// node that is read-only below a snapshot stay, with a warning. Reports how many. With `dry_run` it prints the
/// commands and changes nothing.
void run_clean_bitmap(EventLoop& loop, Reporter& reporter, const CleanBitmapRequest& request);

}  // namespace qmpbackup
