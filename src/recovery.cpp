#include "qmpbackup/recovery.hpp"

namespace qmpbackup {

JobFate fate_of(const Job* job) {
  if (job == nullptr) {
    return JobFate::kNone;
  }
  if (!job->is_concluded()) {
    // "aborting" ends in a conclusion with an error; whoever waits for the job sees it then.
    return JobFate::kWorking;
  }
  return job->error ? JobFate::kFailed : JobFate::kSucceeded;
}

Recovery decide_recovery(const RecoveryFacts& facts) {
  if (facts.verified) {
    // Killed on the way to the commit. The final file alone: killed after the rename.
    return facts.partial_file || facts.final_file ? Recovery::kCommit : Recovery::kUndo;
  }
  if (!facts.partial_file) {
    return Recovery::kUndo;  // killed before the file was made; a final file is not ours then
  }
  switch (facts.job) {
    case JobFate::kNone:  // killed before the transaction, or QEMU was
    case JobFate::kFailed:
      return Recovery::kUndo;
    case JobFate::kWorking:
      return Recovery::kWait;
    case JobFate::kSucceeded:
      // The node is deleted after its flush succeeded, and by an undo only once the job is gone.
      return facts.target_node ? Recovery::kFlush : Recovery::kSync;
  }
  return Recovery::kUndo;
}

}  // namespace qmpbackup
