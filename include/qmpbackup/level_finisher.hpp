#pragma once

#include "qmpbackup/chain_files.hpp"
#include "qmpbackup/manifest.hpp"
#include "qmpbackup/recovery.hpp"
#include "qmpbackup/session.hpp"

namespace qmpbackup {

// The second half of a level's way to the disk, for one disk: from a concluded job to the commit. A run takes it after
// its job; recovery takes it wherever an earlier run broke off. Every function reads all it needs from the manifest's
// `pending`.

/// Steps 6 to 8, starting at `from` (kFlush, kSync or kCommit). On return the level is committed: file, manifest, both
/// durable. Updates `manifest` to what is on disk. Continues a guest that stopped on an I/O error meanwhile. Throws
/// where the level is not complete; then nothing was committed, and the caller undoes, or the next run repeats the
/// commit where `pending.verified` is set.
LevelRecord finish_level(Session& session, const ChainFiles& files, Manifest& manifest, Recovery from);

/// Step 9: dismisses the job and removes the previous level's bitmap. What it cannot do now, the next run does; it
/// warns instead of failing.
void clean_up_after_commit(Session& session, const Manifest& manifest);

/// The bitmap of an adopted chain carries no prefix of ours: it is the one beside the bitmap of the level that was made
/// from it. Removed when that level is the newest; returns whether it was there.
bool remove_adopted_bitmap(Session& session, const Manifest& manifest);

/// Takes everything of the run in `pending` back, in QEMU and on disk; the chain is then as it was before the run.
/// Continues a guest that stopped on an I/O error meanwhile. Signals wait for its end.
void undo_level(Session& session, const ChainFiles& files, Manifest& manifest);

}  // namespace qmpbackup
