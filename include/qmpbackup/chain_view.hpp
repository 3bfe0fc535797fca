#pragma once

#include <optional>
#include <string>
#include <vector>

#include "qmpbackup/chain_on_disk.hpp"
#include "qmpbackup/errors.hpp"

namespace qmpbackup {

/// A level as somebody sees it who wants to restore.
struct LevelView {
  LevelRecord record;  ///< from the manifest; made up from the file alone where there is none
  bool from_manifest = false;
  std::string path;                  ///< of its file
  std::optional<std::string> fault;  ///< why this file is of no use (fault_of_level)
};

/// All levels of a chain, the full first, with what can be seen without reading their data. Works from the qcow2 files
/// alone when the manifest is lost or damaged: the backing links are enough to restore, and to see that a level below
/// another one is gone; the same for files beyond an older copy of the manifest (file_beyond_manifest).
std::vector<LevelView> view_chain(const ChainOnDisk& chain, const ChainFiles& files);

/// A file under a level's final name that is newer than all the manifest knows, with no run that is putting one there:
/// the manifest is an older copy, or somebody put the file there. Nothing without a manifest.
std::optional<std::string> file_beyond_manifest(const ChainOnDisk& chain, const ChainFiles& files);

/// Where a level stands among `levels`; nothing when it is not there.
std::optional<std::size_t> index_of(const std::vector<LevelView>& levels, Level level);

/// The newest level that can be restored: it and all below it are without fault. Nothing when the full is gone or
/// damaged.
std::optional<Level> newest_good(const std::vector<LevelView>& levels);

/// A fault for each level that lies on one with a fault: "needs inc0".
void mark_levels_above_faults(std::vector<LevelView>& levels);

/// Whether all files are where they belong and every backing link is a file name alone, so that the levels without
/// fault are found by their links.
bool links_stay_in_folder(const ChainOnDisk& chain, const std::vector<LevelView>& levels);

/// The error for a base without any file of a chain, which may be the name of a level.
ChainError no_chain_at(const ChainFiles& files);

/// Where the level to restore stands among `levels`: that of `at` (RFC 3339 in UTC: the newest not after it), else
/// `wanted`, else the newest. Throws ChainError where there is none, with where to look instead.
std::size_t level_to_restore(const ChainOnDisk& chain, const ChainFiles& files, const std::vector<LevelView>& levels,
                             std::optional<Level> wanted, const std::optional<std::string>& at);

}  // namespace qmpbackup
