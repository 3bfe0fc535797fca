#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "qmpbackup/backup_planner.hpp"
#include "qmpbackup/connection.hpp"

namespace qmpbackup {

struct BackupOptions {
  Connection connection;
  std::vector<BackupRequest> disks;  ///< at least one
  bool dry_run = false;
  bool checksums = true;
};

/// Takes one level of each disk, at one point in time, in the commit order that the promise rests on, and reports it.
/// Resolves first what earlier runs left. Throws what errors.hpp lists; then nothing of this run is left, and the
/// chains are as they were, unless the message says that the next run has to clean up.
void run_backup(EventLoop& loop, Reporter& reporter, const BackupOptions& options);

}  // namespace qmpbackup
