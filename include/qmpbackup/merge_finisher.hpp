#pragma once

#include "qmpbackup/chain_files.hpp"
#include "qmpbackup/manifest.hpp"

namespace qmpbackup {

/// Puts the files of a committed merge in place: the new full, the level after it with its new backing link; removes
/// the levels that went into the full. Repeated after a kill at any point, it ends in the same state. Nothing to do
/// without a pending merge. The caller holds the chain's lock. Throws FileError.
void finish_merge(const ChainFiles& files, Manifest& manifest);

/// The same for a command that only reads: where a merge is pending, and this user may finish it, and no run holds the
/// chain. Otherwise nothing is changed: read_chain_to_restore sees through a pending merge. Throws nothing of that.
void finish_merge_if_possible(const ChainFiles& files);

}  // namespace qmpbackup
