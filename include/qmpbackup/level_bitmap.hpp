#pragma once

#include <optional>
#include <string>
#include <vector>

#include "qmpbackup/chain_on_disk.hpp"
#include "qmpbackup/manifest.hpp"
#include "qmpbackup/vm_state.hpp"

namespace qmpbackup {

// Whether what was written since the last level of a chain is known: its bitmap, on the disk's node, decides.

/// Why the last level's bitmap cannot carry the next level; empty when it can.
std::string why_bitmap_is_unusable(const Node& node, const LevelRecord& last);

/// The backing node that holds the bitmap in place of the disk's own node, if any: below a snapshot. A commit brings it
/// back.
const Node* holder_below_snapshot(const VmState& vm, const Disk& disk, const BitmapName& bitmap);

/// Whether the guest writes to another node by now than when `before` was seen: a snapshot makes the node read-only.
bool went_below_snapshot(const Node& before, const std::vector<Node>& nodes);

/// The chains whose things in QEMU the manifest answers for.
std::vector<ChainId> chains_of(const Manifest& manifest);

/// The bitmaps of a chain that are no leftovers: its last level's, and those of levels that the manifest does not know
/// and that no run under way can have made: the manifest is an older copy then, and elsewhere the chain goes on from
/// them. A run makes the next level's alone, beside the last one's.
std::vector<BitmapName> bitmaps_to_keep(const Manifest& manifest, const std::vector<Node>& nodes);

/// The same while the run in the manifest's `pending` is taken back, which may be an older copy too: that run cannot
/// have made the bitmap of a level above its own.
std::vector<BitmapName> bitmaps_kept_by_undo(const Manifest& manifest, const std::vector<Node>& nodes);

/// The granularity of the next level's bitmap, where that level belongs to `chain`: doubled for each attempt at it that
/// may come back with an image, five times at most.
ByteCount granularity_of_next(const Manifest& manifest, const ChainId& chain);

/// Whether one of the nodes has a bitmap of this chain.
bool has_bitmap_of(const std::vector<Node>& nodes, const std::optional<ChainId>& chain);
/// The bitmaps of all our chains on the node, for a message; empty for none.
std::string names_of_our_bitmaps(const Node& node);

/// Why the disk's size, or a change of it, makes the bitmap useless; empty when it does not. `marks_intact`: of the
/// bitmap (bitmap_marks.hpp); nothing where that was not looked at.
std::string why_size_is_wrong(const Node& node, const LevelRecord& last, std::optional<bool> marks_intact);

/// Whether a level's bitmap began with the marks that this version looks for.
bool has_known_marks(const LevelRecord& record);

/// The level record whose bitmap the next incremental needs, if its marks can be looked at before planning
/// (bitmap_marks.hpp): the bitmap is on the disk's node and usable.
const LevelRecord* level_with_marks(const VmState& vm, const Disk& disk, const ChainOnDisk& chain);

}  // namespace qmpbackup
