#pragma once

#include "qmpbackup/manifest.hpp"
#include "qmpbackup/vm_state.hpp"

namespace qmpbackup {

/// What became of the backup job of a run that ended early.
enum class JobFate { kNone, kWorking, kSucceeded, kFailed };

JobFate fate_of(const Job* job);

/// What is found of a run whose intent (`pending`) the manifest holds.
struct RecoveryFacts {
  bool verified = false;  ///< the manifest says that the level was found complete and on disk
  JobFate job = JobFate::kNone;
  bool target_node = false;   ///< the level's qcow2 node is in QEMU
  bool partial_file = false;  ///< is there; of a verified one: as it was then
  bool final_file = false;    ///< the verified file is under its final name
};

/// Where to take up an earlier run's work. Steps are those of the commit order.
enum class Recovery {
  kUndo,    ///< cancel the job, remove node, bitmap and partial file
  kWait,    ///< the job still works: wait for it, then as kFlush
  kFlush,   ///< reopen the target read-only, which flushes
  kSync,    ///< fsync, completeness check
  kCommit,  ///< rename, manifest
};

Recovery decide_recovery(const RecoveryFacts& facts);

}  // namespace qmpbackup
