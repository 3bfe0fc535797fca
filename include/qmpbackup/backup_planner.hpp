#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "qmpbackup/chain_files.hpp"
#include "qmpbackup/chain_on_disk.hpp"
#include "qmpbackup/manifest.hpp"
#include "qmpbackup/sizes.hpp"
#include "qmpbackup/vm_state.hpp"

namespace qmpbackup {

/// What the operator asks for, for one disk.
struct BackupRequest {
  std::string device;
  ChainFiles files;
  std::optional<Level> level = kFullLevel;  ///< nothing: `auto`
  std::string compression{};                ///< "zstd", "zlib", "none"; empty: the best that QEMU offers
  std::optional<ByteCount> cluster_size{};
  std::optional<ByteCount> speed_bytes_per_second{};
  bool buffered = false;
  bool check_space = true;
  bool adopt = false;
  std::string command{};  ///< how this run was called up to -inc, for hints: "qmpbackup -socket S -backupFile B
                          ///< -deviceToBackup D"
};

/// The folder that the level's file goes to.
struct TargetFolder {
  std::string absolute_path{};  ///< for a QEMU that opens the file itself: it works in another folder
  bool exists = false;
  bool writable = false;
  bool takes_direct_io = false;
  std::optional<ByteCount> free_bytes;
};

/// All that a decision about one disk rests on, besides the VM.
struct DiskCircumstances {
  BackupRequest request;
  ChainOnDisk chain;
  TargetFolder target;
  ChainId fresh_id;                    ///< for a new chain
  std::int64_t fdset_id = 0;           ///< fresh: QEMU 7.2 hands out descriptors of a removed set again
  std::uint64_t marks_seed = 0;        ///< fresh, too (bitmap_marks.hpp)
  std::string now{};                   ///< RFC 3339 in UTC
  bool same_host = true;               ///< a UNIX socket: descriptors can be passed
  std::optional<bool> marks_intact{};  ///< of the previous level's bitmap; nothing where that was not looked at
};

/// One disk's part of a run, fully decided.
struct DiskPlan {
  Disk disk;
  ChainFiles files;
  Manifest intent;  ///< the manifest to write before QEMU is touched; `intent.pending` is always set
  bool manifest_was_damaged = false;
  std::optional<BitmapName> previous_bitmap{};
  bool persistent = true;
  bool direct_io = false;
  std::optional<std::string> path_for_qemu{};  ///< without descriptors QEMU opens the partial file itself
  std::int64_t fdset_id = 0;
  ByteCount expected_bytes = 0;  ///< an estimate of what is copied
  std::optional<ByteCount> speed_bytes_per_second{};

  [[nodiscard]] const Pending& pending() const { return *intent.pending; }
};

struct BackupPlan {
  std::vector<DiskPlan> disks;
  std::vector<std::string> warnings;
};

/// Decides what a run does, or refuses: UsageError, ChainError, NewFullNeeded. Pure: changes nothing, asks nothing.
BackupPlan plan_backup(const VmState& vm, const std::vector<DiskCircumstances>& disks);

}  // namespace qmpbackup
