#pragma once

#include <optional>
#include <string>

#include "qmpbackup/chain_on_disk.hpp"
#include "qmpbackup/manifest.hpp"
#include "qmpbackup/vm_state.hpp"

namespace qmpbackup {

// Whether what was written since the last level of a chain is known: its bitmap, on the disk's node, decides.

/// Why the last level's bitmap cannot carry the next level; empty when it can.
std::string why_bitmap_is_unusable(const Node& node, const LevelRecord& last);

/// Why the disk's size, or a change of it, makes the bitmap useless; empty when it does not. `marks_intact`: of the
/// bitmap (bitmap_marks.hpp); nothing where that was not looked at.
std::string why_size_is_wrong(const Node& node, const LevelRecord& last, std::optional<bool> marks_intact);

/// Whether a level's bitmap began with the marks that this version looks for.
bool has_known_marks(const LevelRecord& record);

/// The level record whose bitmap the next incremental needs, if its marks can be looked at before planning
/// (bitmap_marks.hpp): the bitmap is on the disk's node and usable.
const LevelRecord* level_with_marks(const VmState& vm, const Disk& disk, const ChainOnDisk& chain);

}  // namespace qmpbackup
