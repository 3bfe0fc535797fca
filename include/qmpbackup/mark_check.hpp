#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "qmpbackup/chain_on_disk.hpp"
#include "qmpbackup/session.hpp"

namespace qmpbackup {

// The marks of bitmaps (bitmap_marks.hpp) in QEMU. All block for a few messages; they throw Error where QEMU's human
// monitor does not do what it was told, and ConnectError.

/// Puts a bitmap on the scratch node, which is there, that holds the marks of a disk of `marked_size` bytes.
void make_marks(Session& session, const NodeName& scratch, const BitmapName& name, ByteCount marked_size,
                std::uint64_t seed);

/// After compare_with_marks.
bool all_marks_are_there(const std::vector<Node>& nodes, const NodeName& scratch);

/// Whether the previous level's bitmap still holds the marks that it began with; nothing where that cannot be told.
/// Leaves nothing in QEMU.
std::optional<bool> look_at_marks(Session& session, const VmState& vm, const Disk& disk, const ChainOnDisk& chain);

}  // namespace qmpbackup
