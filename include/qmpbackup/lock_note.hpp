#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "qmpbackup/ids.hpp"
#include "qmpbackup/manifest.hpp"

namespace qmpbackup {

/// What BASE.lock says, for runs that find no manifest, or an older one: of which chains there may be something in
/// QEMU.
struct LockNote {
  std::optional<ChainId> chain{};  ///< whose files are here
  std::string newest{};            ///< file name of its newest level
  std::optional<ChainId> begun{};  ///< another one, of which a run wanted to take the first level here
};

/// Never throws: what is not understood, such as a line that a kill left half written, is not there.
LockNote parse_lock_note(std::string_view text);
std::string format_lock_note(const LockNote& note);

/// A run is about to touch QEMU for a level of this chain.
LockNote with_begun(LockNote note, const ChainId& chain);
/// Nothing of that run is left.
LockNote without_begun(LockNote note, const ChainId& chain);
/// The manifest's newest level was committed.
LockNote with_newest_level(LockNote note, const Manifest& manifest);

}  // namespace qmpbackup
