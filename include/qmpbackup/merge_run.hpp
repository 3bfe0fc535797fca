#pragma once

#include "qmpbackup/chain_files.hpp"
#include "qmpbackup/event_loop.hpp"
#include "qmpbackup/reporter.hpp"

namespace qmpbackup {

struct MergeRequest {
  ChainFiles files;
  Level through;  ///< the full and the levels up to this one become the new full
  bool check_space = true;
  bool dry_run = false;
};

/// Shortens a chain without another full from the VM. The new full is made in a new file, read back and durable before
/// one write of the manifest commits it; the files are put in place after that, and whatever opens the chain next does
/// it after a kill. At every moment the levels from `through` on restore by their backing links. Levels before it are
/// gone afterwards; later levels keep their numbers, and the bitmap goes on unbroken. Needs no QEMU. Throws ChainError,
/// ChainBusy, FileError, Interrupted; then the chain is as it was.
void run_merge(EventLoop& loop, Reporter& reporter, const MergeRequest& request);

}  // namespace qmpbackup
