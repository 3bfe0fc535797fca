#include "qmpbackup/backup_wait.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string>
#include <utility>

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
  throw Error(fmt::format("{}: the backup to {} failed: {}", run.device, run.partial, *job->error), kStorageHint);
}

[[noreturn]] void throw_guest_error(const Pending& run) {
  throw Error(fmt::format("{}: the guest had an I/O error during the backup, which was cancelled", run.device),
              kStorageHint);
}

/// What QEMU's events tell in the course of a wait.
struct News {
  bool cancelled = false;                               ///< a job of ours
  std::set<std::pair<std::string, NodeName>> others{};  ///< devices and nodes whose errors are none of ours
};

/// Whether the guest's request that failed was to a disk of these runs. The node is the filter of the job, most likely.
bool is_on_disks_of(Session& session, const std::vector<Pending>& runs, const QmpEvent& event, News& news) {
  const std::string device = event.data.value("device", "");
  const NodeName node{event.data.value("node-name", "")};
  if (news.others.contains({device, node})) {
    return false;
  }
  for (const Disk& disk : list_disks(look_at_vm(session))) {
    const bool hit = disk.label == device || std::find(disk.path.begin(), disk.path.end(), node) != disk.path.end();
    if (hit && std::any_of(runs.begin(), runs.end(), [&](const Pending& run) { return run.device == disk.label; })) {
      return true;
    }
  }
  news.others.insert({device, node});
  return false;
}

/// Whether a guest that ran stands still because of an error.
bool was_stopped(Session& session, const std::vector<Pending>& runs) {
  return std::any_of(runs.begin(), runs.end(), [](const Pending& run) { return run.was_running; }) &&
         query_status(session.client) == "io-error";
}

void throw_if_guest_suffers(Session& session, const std::vector<Pending>& runs, const QmpEvent& event, News& news) {
  const bool failed = event.name == "BLOCK_IO_ERROR";
  if ((event.name == "STOP" && was_stopped(session, runs)) ||
      (failed && event.data.value("operation", "") == "write" && is_on_disks_of(session, runs, event, news))) {
    throw_guest_error(runs.front());
  }
}

[[noreturn]] void throw_job_error(Session& session, const Pending& run, const QmpEvent& error) {
  const bool was_read = error.data.value("operation", "") == "read";
  std::string why = "its storage has an error or is full";
  const Deadline deadline = after(1s);  // the job ends by itself, and says why, unless the storage hangs
  while (const auto event = session.client.next_event(deadline)) {
    if (event->name == "BLOCK_JOB_COMPLETED" && job_of_event(*event) == run.job.value) {
      why = event->data.value("error", why);
      break;
    }
  }
  throw Error(was_read ? fmt::format("{}: a read of the disk failed during the backup: {}", run.device, why)
                       : fmt::format("{}: a write to {} failed during the backup: {}", run.device, run.partial, why),
              was_read ? "check the disk's storage, then try again; the chain is as it was" : kStorageHint);
}

/// Returns when a job of ours may have changed, or at the deadline.
void wait_for_news(Session& session, const std::vector<Pending>& runs, Deadline deadline, News& news) {
  while (const auto event = session.client.next_event(deadline)) {
    throw_if_guest_suffers(session, runs, *event, news);
    const auto job = job_of_event(*event);
    if (!job || !is_one_of(runs, *job)) {
      if (std::chrono::steady_clock::now() >= deadline) {  // a disk with errors may have more of them without end
        return;
      }
      continue;
    }
    news.cancelled = news.cancelled || event->name == "BLOCK_JOB_CANCELLED";
    if (event->name == "BLOCK_JOB_ERROR") {
      throw_job_error(session, runs.front(), *event);
    }
    return;
  }
}

}  // namespace

void wait_for_backups(Session& session, const std::vector<Pending>& runs) {
  Progress progress(runs.front().device, {}, std::chrono::steady_clock::now());
  News news;
  if (was_stopped(session, runs)) {  // before anybody listened: recovery waits for a killed run's job
    throw_guest_error(runs.front());
  }
  for (;;) {
    const std::vector<Job> jobs = query_jobs(session.client);
    ByteCount done = 0;
    ByteCount total = 0;
    bool all_concluded = true;
    for (const Pending& run : runs) {
      const auto job = std::find_if(jobs.begin(), jobs.end(), [&](const Job& j) { return j.id == run.job; });
      throw_if_failed(session, run, job == jobs.end() ? nullptr : &*job, news.cancelled);
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
    wait_for_news(session, runs, now + kLookAgain, news);
  }
}

}  // namespace qmpbackup
