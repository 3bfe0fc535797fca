#pragma once

#include "qmpbackup/chain_files.hpp"
#include "qmpbackup/manifest.hpp"

namespace qmpbackup {

/// Puts the files of a committed merge in place: the new full, the level after it with its new backing link; removes
/// the levels that went into the full. Repeated after a kill at any point, it ends in the same state. Nothing to do
/// without a pending merge. The caller holds the chain's lock. Throws FileError.
void finish_merge(const ChainFiles& files, Manifest& manifest);

/// The same for a command that only reads: takes the lock, and nothing is changed where no merge is pending. Throws
/// ChainBusy, FileError.
void finish_merge_if_pending(const ChainFiles& files);

}  // namespace qmpbackup
