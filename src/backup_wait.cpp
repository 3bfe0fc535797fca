#include "qmpbackup/backup_wait.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "qmpbackup/errors.hpp"
#include "qmpbackup/recovery.hpp"

namespace qmpbackup {
namespace {

using namespace std::chrono_literals;

constexpr auto kLookAgain = 250ms;  // in case an event was missed, and for progress

constexpr auto kStorageHint = "check the target's storage and free space, then try again; the chain is as it was";

bool is_one_of(const std::vector<Pending>& runs, const std::string& job) {
  return std::any_of(runs.begin(), runs.end(), [&](const Pending& run) { return run.job.value == job; });
}

bool is_cancellation(const QmpEvent& event, const Pending& run) {
  return event.name == "BLOCK_JOB_CANCELLED" && job_of_event(event) == run.job.value;
}

/// `cancelled`: an event said so. It may also be among those that nobody looked at yet.
void throw_if_failed(Session& session, const Pending& run, const Job* job, bool cancelled) {
  if (job == nullptr) {
    throw Error(fmt::format("{}: the backup job vanished: something else cancelled or dismissed it", run.device),
                "try again; the chain is as it was");
  }
  if (fate_of(job) != JobFate::kFailed) {
    return;
  }
  while (const auto event = session.client.next_event(after(0s))) {
    cancelled = cancelled || is_cancellation(*event, run);
  }
  if (cancelled) {
    throw Error(fmt::format("{}: something else cancelled the backup job", run.device),
                "try again; the chain is as it was");
  }
  throw Error(fmt::format("{}: the backup failed: {}", run.device, *job->error), kStorageHint);
}

void throw_if_guest_suffers(Session& session, const std::vector<Pending>& runs, const QmpEvent& event) {
  const bool write_failed = event.name == "BLOCK_IO_ERROR" && event.data.value("operation", "") == "write";
  const bool stopped = event.name == "STOP" || event.name == "BLOCK_IO_ERROR";
  const bool ran = std::any_of(runs.begin(), runs.end(), [](const Pending& run) { return run.was_running; });
  if (write_failed || (stopped && ran && query_status(session.client) == "io-error")) {
    throw Error(
        fmt::format("{}: the guest had an I/O error during the backup, which was cancelled", runs.front().device),
        kStorageHint);
  }
}

/// Returns when a job of ours may have changed, or at the deadline. Sets `cancelled` when one was.
void wait_for_news(Session& session, const std::vector<Pending>& runs, Deadline deadline, bool& cancelled) {
  while (const auto event = session.client.next_event(deadline)) {
    throw_if_guest_suffers(session, runs, *event);
    const auto job = job_of_event(*event);
    if (!job || !is_one_of(runs, *job)) {
      continue;
    }
    cancelled = cancelled || event->name == "BLOCK_JOB_CANCELLED";
    if (event->name == "BLOCK_JOB_ERROR") {
      throw Error(fmt::format("{}: a {} failed during the backup: the storage has an error or is full",
                              runs.front().device, event->data.value("operation", "request")),
                  kStorageHint);
    }
    return;
  }
}

}  // namespace

void wait_for_backups(Session& session, const std::vector<Pending>& runs) {
  Progress progress(runs.front().device, {}, std::chrono::steady_clock::now());
  bool cancelled = false;
  for (;;) {
    const std::vector<Job> jobs = query_jobs(session.client);
    ByteCount done = 0;
    ByteCount total = 0;
    bool all_concluded = true;
    for (const Pending& run : runs) {
      const auto job = std::find_if(jobs.begin(), jobs.end(), [&](const Job& j) { return j.id == run.job; });
      throw_if_failed(session, run, job == jobs.end() ? nullptr : &*job, cancelled);
      done += job->current;
      total += job->total;
      all_concluded = all_concluded && job->is_concluded();
    }
    const auto now = std::chrono::steady_clock::now();
    progress.update(done, total, now);
    session.reporter.progress(progress);
    if (all_concluded) {
      return;
    }
    if (progress.stalled_for(now) > session.stall_timeout) {
      throw Error(fmt::format("{}: the backup has not moved for {}; it was cancelled", runs.front().device,
                              format_seconds(std::chrono::duration<double>(session.stall_timeout).count())),
                  "check whether the target's storage hangs; --stall-timeout sets the limit");
    }
    wait_for_news(session, runs, now + kLookAgain, cancelled);
  }
}

}  // namespace qmpbackup
