#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "qmpbackup/ids.hpp"
#include "qmpbackup/manifest.hpp"

namespace qmpbackup {

/// A chain that is not in the folder (any more), of which there may be something in QEMU.
struct PastChain {
  ChainId chain;
  std::optional<Level> begun{};  ///< a run began this level, the chain's first here; nothing: another chain replaced it
};

/// What BASE.lock says, for runs that find no manifest, or one that tells less.
struct LockNote {
  std::optional<ChainId> chain{};  ///< whose files are here
  std::string newest{};            ///< file name of its newest level
  std::vector<PastChain> past{};   ///< oldest first, a few
};

/// Never throws: what is not understood, such as a line that a kill left half written, is not there.
LockNote parse_lock_note(std::string_view text);
std::string format_lock_note(const LockNote& note);

/// A run is about to touch QEMU for this level of this chain.
LockNote with_begun(LockNote note, const ChainId& chain, Level level);
/// Nothing of that run is left.
LockNote without_past(LockNote note, const ChainId& chain);
/// The manifest's newest level is about to be committed.
LockNote with_newest_level(LockNote note, const Manifest& manifest);

}  // namespace qmpbackup
