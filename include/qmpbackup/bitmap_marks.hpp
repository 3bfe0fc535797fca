#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <vector>

#include "qmpbackup/ids.hpp"
#include "qmpbackup/qmp_message.hpp"
#include "qmpbackup/sizes.hpp"
#include "qmpbackup/vm_state.hpp"

namespace qmpbackup {

/// Marks: granules that a level's bitmap holds as dirty from its first moment on.
///
/// A disk that is shrunk and grown again between two levels reads zeros where it was cut off, and QEMU does not note
/// that in any bitmap: the next level would silently keep the old content there. But shrinking cuts the marks off the
/// bitmap too, and so does clearing it. When one mark is gone, only a new full is right. The price is that every
/// incremental copies them: at most 4.7 MiB of a disk of 8 GiB, 7.2 MiB of one of 8 TiB.
///
/// The marks are the last 1 MiB, and four granules in each range of 2^n to 2^(n+1) MiB before the end. A guest that
/// writes to a mark after the growing renews it: partition tables, RAID and file systems keep data at the very end. A
/// cut of up to 1 MiB cannot hide: it takes away marks only, and what is renewed is copied. A larger one stays hidden
/// only where the guest renewed the whole last 1 MiB and every other mark that was cut off, and yet not all of what
/// was.
///
/// Eight more are anywhere, as a number says that each attempt at a level draws: the bitmap of another attempt at the
/// same level, which came back with a copy of the disk's image or of the chain's folder, has the same name, and not
/// those.
///
/// QMP cannot mark a chosen part of a bitmap. A write to a scratch node of the disk's size (null-co, which stores
/// nothing) does, and `block-dirty-bitmap-merge` carries the marks over in the transaction that makes the level's
/// bitmap.
struct MarkedRange {
  ByteCount offset = 0;  ///< of a granule
  ByteCount length = 0;  ///< bytes, all on the disk
};

/// Where the marks of a disk of `virtual_size` bytes are, none twice. `seed` is the attempt's number; 0: it drew none.
std::vector<MarkedRange> marks_of(ByteCount virtual_size, std::uint64_t seed);
/// How many granules that is.
std::size_t count_marks(ByteCount virtual_size, std::uint64_t seed);

/// Makes the scratch node.
QmpCommand add_scratch_node(const NodeName& scratch, ByteCount virtual_size);
/// Adds a bitmap to the scratch node, marks it as a disk of `marked_size` <= its own size has it, and disables it, so
/// that the marks of another one stay out of it.
std::vector<QmpCommand> add_marks(const NodeName& scratch, const BitmapName& name, ByteCount marked_size,
                                  std::uint64_t seed);

/// Bitmaps on the scratch node.
inline const BitmapName kMarks{"marks"};         ///< of the level
inline const BitmapName kOldMarks{"old-marks"};  ///< of the previous level
inline const BitmapName kCopy{"copy"};           ///< the previous level's bitmap
inline const BitmapName kUnion{"union"};         ///< that, and its marks

/// Actions of a transaction that put kCopy and kUnion on the scratch node. `marks`, which is there already, is a part
/// of the `bitmap` of `node` exactly when both count the same afterwards.
nlohmann::json compare_with_marks(const NodeName& scratch, const BitmapName& marks, const NodeName& node,
                                  const BitmapName& bitmap);

/// Whether such a comparison, of a run that was killed before it looked, says that a mark is gone. No where there is
/// none.
bool marks_were_lost(const std::vector<Node>& nodes, const NodeName& scratch);

}  // namespace qmpbackup
