#pragma once

#include "qmpbackup/backup_planner.hpp"
#include "qmpbackup/chain_on_disk.hpp"
#include "qmpbackup/chain_view.hpp"
#include "qmpbackup/event_loop.hpp"

namespace qmpbackup {

/// Looks at a chain's files: manifest, level files with the fronts of their headers, partial files. Changes nothing.
/// Runs qemu-img only where a full stands alone, to see whether it is an empty image that an operator made beforehand.
/// Throws FileError where a file is there and cannot be read: that tells nothing of the chain.
ChainOnDisk read_chain(EventLoop& loop, const ChainFiles& files);

/// The same for those who restore, beside another run or after one that was killed. While a merge puts its files in
/// place, or an old chain moves into its archive, the manifest tells of levels that are elsewhere: those are found
/// there (LevelFile::elsewhere). A level that cannot be read is noted (LevelFile::unreadable): those below it
/// restore. Throws FileError only where the folder or the manifest cannot be read. Needs no lock and no right to write.
ChainOnDisk read_chain_to_restore(EventLoop& loop, const ChainFiles& files);

/// Whether a level is of no use for want of a right to read it alone; an error of the storage is damage.
bool is_without_right(const ChainOnDisk& chain, const LevelView& level);
inline constexpr auto kNoRightHint = "check owner and mode, or run as the user whose backups they are";

/// Throws ChainError where the chain's folder is not there.
void require_folder(const ChainFiles& files);

/// Looks at the folder that a chain's files go to. Changes nothing that stays.
TargetFolder inspect_target(const ChainFiles& files);

}  // namespace qmpbackup
