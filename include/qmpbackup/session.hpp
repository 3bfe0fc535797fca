#pragma once

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "qmpbackup/event_loop.hpp"
#include "qmpbackup/file_lock.hpp"
#include "qmpbackup/ids.hpp"
#include "qmpbackup/manifest.hpp"
#include "qmpbackup/qmp_client.hpp"
#include "qmpbackup/reporter.hpp"
#include "qmpbackup/vm_state.hpp"

namespace qmpbackup {

/// What every step of a run against a VM needs.
struct Session {
  EventLoop& loop;
  Reporter& reporter;
  QmpClient& client;
  VmFeatures features;
  std::chrono::steady_clock::duration stall_timeout;
  bool checksums = true;
  std::span<FileLock> locks{};  ///< of the chains that the run changes
};

/// Runs a command whose object may be gone, or held for a moment longer: false where QEMU refused it.
bool try_execute(QmpClient& client, const QmpCommand& command);

/// What this QEMU can do: one query-qmp-schema.
VmFeatures query_features(QmpClient& client);

/// Asks for everything that planning needs. Waits first until no blockdev-create of anybody works: QEMU 7.2 aborts when
/// query-named-block-nodes meets a half-open image (qcow2_get_specific_info). Throws ChainError when one does not end
/// in time.
VmState look_at_vm(Session& session);

/// The parts of look_at_vm that are asked for again and again.
std::vector<Job> query_jobs(QmpClient& client);
std::vector<Node> query_nodes(Session& session);
std::string query_status(QmpClient& client);

/// Whether a target's size, or that it is not there, can be had in a moment. QEMU asks for it whenever it lists nodes,
/// and stands still, guest and all, while the storage hangs.
bool storage_answers(Session& session, const std::string& path);

/// Waits until the job has concluded or is gone; the state it was found in last, nothing when it is gone. Throws
/// ConnectionLost, Interrupted, and Error when it is still there at the deadline.
std::optional<Job> wait_for_job(Session& session, const JobId& id, Deadline deadline);

/// Cancels and dismisses the jobs of the given chains, without a look at any node. Returns which, a phrase each.
std::vector<std::string> remove_jobs(Session& session, const std::vector<ChainId>& chains);

/// Removes what this program left in QEMU for the given chains: cancels and dismisses jobs, deletes nodes, removes
/// every bitmap but those to `keep`, closes descriptors. Asks QEMU what there is instead of remembering, so that it
/// serves after a crash too; jobs go first, because a concluded job is the evidence that its level is complete. Returns
/// what was removed, a phrase each. Never touches other chains' things.
std::vector<std::string> remove_leftovers(Session& session, const std::vector<ChainId>& chains,
                                          const std::vector<BitmapName>& keep);

}  // namespace qmpbackup
