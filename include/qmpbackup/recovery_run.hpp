#pragma once

#include <optional>

#include "qmpbackup/chain_files.hpp"
#include "qmpbackup/manifest.hpp"
#include "qmpbackup/session.hpp"

namespace qmpbackup {

/// Resolves what an earlier run left of this chain, whatever ended it: finishes its level, waits for its job first if
/// that still works, or takes it back (recovery.hpp decides), and then removes all that carries this chain's names and
/// that no manifest entry names. Says on the reporter what it did. Returns the level that it completed, if any. The
/// caller holds the chain's lock.
std::optional<LevelRecord> recover_chain(Session& session, const ChainFiles& files);

}  // namespace qmpbackup
