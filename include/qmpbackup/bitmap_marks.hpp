#pragma once

#include <nlohmann/json.hpp>

#include <vector>

#include "qmpbackup/ids.hpp"
#include "qmpbackup/qmp_message.hpp"
#include "qmpbackup/sizes.hpp"

namespace qmpbackup {

/// Marks: granules that a level's bitmap holds as dirty from its first moment on, denser towards the disk's end.
///
/// A disk that is shrunk and grown again between two levels reads zeros where it was cut off, and QEMU does not note
/// that in any bitmap: the next level would silently keep the old content there. But shrinking cuts the marks off the
/// bitmap too, and so does clearing it. When one mark is gone, only a new full is right. The price is 64 KiB for each
/// in every incremental: ten marks on a disk of 8 GiB, fifteen on one of 8 TiB.
///
/// The marks are the last granule, and the granules 64 KiB, 256 KiB, 1 MiB ... 4^n times 64 KiB before it. A guest that
/// writes to a mark after the growing renews it: partition tools write at the very end, so one mark would not do. A cut
/// of up to two granules cannot hide: it takes away marks only, and what is renewed is copied. A larger one stays
/// hidden only where the guest renewed every mark that was cut off, and yet not all of what was.
///
/// QMP cannot mark a chosen part of a bitmap. A write to a scratch node of the disk's size (null-co, which stores
/// nothing) does, and `block-dirty-bitmap-merge` carries the marks over in the transaction that makes the level's
/// bitmap.
inline constexpr ByteCount kGranularity = 64 * kKiB;

/// Where the marks of a disk of `virtual_size` bytes are: offsets of granules, descending.
std::vector<ByteCount> mark_offsets(ByteCount virtual_size);

/// Makes the scratch node.
QmpCommand add_scratch_node(const NodeName& scratch, ByteCount virtual_size);
/// Adds a bitmap to the scratch node and marks it as a disk of `marked_size` <= its own size has it.
std::vector<QmpCommand> add_marks(const NodeName& scratch, const BitmapName& name, ByteCount marked_size);

/// Bitmaps on the scratch node.
inline const BitmapName kMarks{"marks"};         ///< of the disk as it is
inline const BitmapName kOldMarks{"old-marks"};  ///< of the disk as it was at the previous level
inline const BitmapName kCopy{"copy"};           ///< the previous level's bitmap
inline const BitmapName kUnion{"union"};         ///< that, and kOldMarks

/// Puts kCopy and kUnion on the scratch node. The old marks are all in `bitmap` exactly when both count the same
/// afterwards.
QmpCommand compare_with_marks(const NodeName& scratch, const NodeName& node, const BitmapName& bitmap);

}  // namespace qmpbackup
