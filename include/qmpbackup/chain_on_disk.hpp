#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "qmpbackup/chain_files.hpp"
#include "qmpbackup/lock_note.hpp"
#include "qmpbackup/manifest.hpp"
#include "qmpbackup/qcow2_header.hpp"

namespace qmpbackup {

enum class ManifestState { kAbsent, kGood, kDamaged, kTooNew };

/// A file under a level's final name.
struct LevelFile {
  Level level;
  ByteCount file_size = 0;
  std::optional<Qcow2Header> header{};  ///< nothing: no regular file, or no qcow2
  std::string modified{};               ///< RFC 3339 in UTC; empty: no regular file
  bool is_link = false;                 ///< a symbolic link to a regular file
  bool others_may_write = false;
  std::string unreadable{};  ///< why it cannot be read (read_chain_to_restore)
  std::string elsewhere{};  ///< its path, where it is not under its final name yet, or any more (read_chain_to_restore)
};

/// A chain as it was found in its folder.
struct ChainOnDisk {
  ManifestState manifest_state = ManifestState::kAbsent;
  std::string manifest_problem;      ///< for kDamaged and kTooNew
  std::optional<Manifest> manifest;  ///< for kGood
  std::optional<ChainId>
      lost_id;  ///< without a good manifest: the chain's id, from the damaged one or the lock (read_chain)
  std::vector<PastChain> past{};  ///< from the lock (read_chain)
  bool was_ours = false;  ///< what is there beside the manifest says that this program made the chain (read_chain)
  std::vector<LevelFile> files;  ///< ascending by level
  std::vector<Level> partials;
  std::vector<std::string> archives;  ///< earlier chains' folders, by their compact times, ascending
  bool full_is_empty_image = false;   ///< BASE.full.qcow2 is a qcow2 image that nothing was ever written to

  [[nodiscard]] const LevelFile* file_of(Level level) const;
  /// The levels that the manifest names; empty without a good one.
  [[nodiscard]] const std::vector<LevelRecord>& levels() const;
  /// Whether there is anything that a new full would have to move out of its way.
  [[nodiscard]] bool has_backups() const;
};

/// Why a level on top of level `below` (nothing for a full) cannot be restored from: its file is gone, is no qcow2, has
/// another size than the manifest says or another backing link than it must have. Nothing when it is in order. Looks at
/// this level alone.
std::optional<std::string> fault_of_level(const ChainOnDisk& chain, const ChainFiles& files, const LevelRecord& record,
                                          std::optional<Level> below);

/// The first fault among all levels of the manifest, if any.
std::optional<std::string> fault_of_chain(const ChainOnDisk& chain, const ChainFiles& files);

/// What a level's file alone tells of it; the rest is "unknown" or empty.
LevelRecord record_from_file(const LevelFile& file, const ChainFiles& files);

/// The manifest of a chain that was made by another program with the same file names and one bitmap `bitmap0`.
/// Throws ChainError where the files do not make a chain.
Manifest adopt_chain(const ChainOnDisk& chain, const ChainFiles& files, const ChainId& id, const VmIdentity& vm,
                     const std::string& device);

/// "2026-11-22T02:00:00Z" -> "20261122T020000Z", as it stands in an archive folder's name.
std::string compact_time(std::string_view rfc3339);

/// The name of the folder, as a compact time, that the chain can move into: the time of its full (`now`, RFC 3339 in
/// UTC, where nothing tells it), with "-2" behind it and so on when there is such a folder already.
std::string unused_archive(const ChainOnDisk& chain, const std::string& now);

/// The point in time of the chain's full: from the manifest, else its file's time, else `otherwise`. RFC 3339 in UTC.
std::string time_of_full(const ChainOnDisk& chain, const std::string& otherwise);

}  // namespace qmpbackup
