#pragma once

#include <nlohmann/json.hpp>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "qmpbackup/errors.hpp"
#include "qmpbackup/ids.hpp"
#include "qmpbackup/sizes.hpp"

namespace qmpbackup {

/// Which virtual machine a chain belongs to.
struct VmIdentity {
  std::string name;
  std::string uuid;
};

/// Of a level's bitmap, unless an earlier attempt at the level may come back with a copy of the disk's image: its
/// bitmap has the same name, and is told apart by that (Manifest::stored_attempts). The marks are counted in this
/// always.
inline constexpr ByteCount kGranularity = 64 * kKiB;

/// A level that is complete and on disk.
struct LevelRecord {
  Level level;
  std::string file;  ///< name without folder
  std::string time;  ///< the point in time that the level restores to, RFC 3339 in UTC
  ByteCount virtual_size = 0;
  ByteCount bytes_copied = 0;
  ByteCount file_size = 0;
  std::string compression;               ///< "zstd", "zlib", "none"; "unknown" for a level made elsewhere
  BitmapName bitmap;                     ///< holds what was written since `time`
  ByteCount granularity = kGranularity;  ///< of the bitmap
  std::size_t marks = 0;                 ///< so many the bitmap began with (bitmap_marks.hpp)
  std::uint64_t marks_seed = 0;          ///< drawn for this attempt at the level
  std::optional<bool> marked{};  ///< what the first manifests say instead: of marks that are not looked for any more
  std::string qemu;              ///< version
  std::optional<std::string> sha256;
  bool checked = false;                             ///< `qemu-img check` passed on the bytes that have this sha256
  nlohmann::json other = nlohmann::json::object();  ///< fields this version does not know, kept in a rewrite

  /// By the Go tool, or it is known by its file alone: how much was copied cannot be told.
  [[nodiscard]] bool was_made_elsewhere() const { return compression == "unknown"; }
};

/// The intent of a run under way. It is written durably before QEMU is touched, and goes away in the write that commits
/// the level.
struct Pending {
  ChainId chain;  ///< differs from the manifest's while a new chain replaces an old one
  Level level;
  JobId job;
  NodeName node;  ///< the target: the level's qcow2 node
  BitmapName bitmap;
  std::string partial;  ///< file name
  std::string started;  ///< RFC 3339 in UTC
  std::string device;
  VmIdentity vm;
  ByteCount granularity = kGranularity;  ///< of the bitmap
  std::size_t marks = 0;
  std::uint64_t marks_seed = 0;
  std::string compression;
  ByteCount virtual_size = 0;
  ByteCount cluster_size = 0;  ///< of the partial file
  bool adopts = false;         ///< the manifest's levels come from a chain made elsewhere: an undo forgets them
  bool was_running = false;    ///< the guest ran when the run began
  std::string reason;          ///< why a full instead of an incremental; empty for none
  std::optional<std::string> archive{};  ///< compact time: the old chain moves into this folder at the commit
  std::optional<LevelRecord>
      verified{};           ///< the partial file was found complete and on disk: only the commit is missing
  std::uint64_t inode = 0;  ///< of that file, by which it is known under its final name; 0 before
};

/// A merge that has been committed and whose files are still being put in place. The levels of the manifest are those
/// after it already.
struct PendingMerge {
  Level through;  ///< this level and all below it are in the new full
};

/// BASE.chain.json.
struct Manifest {
  ChainId chain;
  VmIdentity vm;
  std::string device;
  std::vector<ChainId> replaces{};  ///< archived chains whose bitmaps may still be on the disk
  std::vector<LevelRecord>
      levels{};  ///< the full, then 0, 1 ... without a gap; after a merge, from the level after `merged` on
  std::size_t stored_attempts = 0;  ///< at the next level, whose bitmaps may be in copies of the disk's image
  std::optional<Level> merged{};    ///< the full holds this level and all below it
  std::optional<Pending> pending{};
  std::optional<PendingMerge> pending_merge{};
  nlohmann::json other = nlohmann::json::object();

  [[nodiscard]] const LevelRecord* last() const { return levels.empty() ? nullptr : &levels.back(); }
  /// The level that comes after the last one.
  [[nodiscard]] Level next_level() const;
};

/// The manifest cannot be read: cut off, not JSON, or against its own rules.
class ManifestDamaged : public ChainError {
  using ChainError::ChainError;
};

/// The manifest was written by a newer program.
class ManifestTooNew : public ChainError {
  using ChainError::ChainError;
};

/// The level that a level's file is on top of, its backing file; nothing for the full, and for a level that is not
/// among `levels`.
std::optional<Level> level_below(const std::vector<LevelRecord>& levels, Level level);

/// No chain's manifest is larger; no more of one is read.
inline constexpr ByteCount kLargestManifest = 16 * kMiB;

/// Throws ManifestDamaged or ManifestTooNew. Trusts nothing: names must be plain file names, levels must have no gap.
Manifest parse_manifest(std::string_view text);

/// The chain's id in the text of a damaged manifest, as far as it can still be found there.
std::optional<ChainId> find_chain_id(std::string_view text);

/// The text of BASE.chain.json, pretty-printed, with a final newline.
std::string format_manifest(const Manifest& manifest);

/// The record as it stands in the manifest and in `list --json`.
nlohmann::json to_json(const LevelRecord& record);

}  // namespace qmpbackup
