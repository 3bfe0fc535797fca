#pragma once

#include <optional>

#include "qmpbackup/chain_files.hpp"
#include "qmpbackup/manifest.hpp"
#include "qmpbackup/session.hpp"

namespace qmpbackup {

/// Resolves what an earlier run left of this chain, whatever ended it: finishes its level, waits for its job first if
/// that still works, or takes it back (recovery.hpp decides), and then removes all that carries this chain's names and
/// that no manifest entry names. Says on the reporter what it did. Returns the level that it completed, or that an
/// earlier run had completed without coming to its end, if any. `speed_bytes_per_second`: at which a job that still
/// works goes on, 0 for no limit; nothing: as it was. The caller holds the chain's lock.
std::optional<LevelRecord> recover_chain(Session& session, const ChainFiles& files,
                                         std::optional<ByteCount> speed_bytes_per_second);

}  // namespace qmpbackup
