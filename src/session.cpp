#include "qmpbackup/session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "qmpbackup/backup_commands.hpp"
#include "qmpbackup/errors.hpp"
#include "qmpbackup/json_text.hpp"
#include "qmpbackup/process.hpp"

namespace qmpbackup {
namespace {

using nlohmann::json;
using namespace std::chrono_literals;

constexpr auto kCreateTakes = 60s;  // formatting an image: metadata alone
constexpr auto kCancelTakes = 60s;  // until the storage has done the requests under way
constexpr auto kLookTakes = 10s;    // at a file's size

/// Until when to wait for a job that was cancelled.
Deadline until_cancelled(const Session& session) {
  return after(std::clamp<std::chrono::steady_clock::duration>(session.stall_timeout, 5s, kCancelTakes));
}

json query(QmpClient& client, const char* command, json arguments = json::object()) {
  return client.execute({command, std::move(arguments)});
}

void wait_until_nothing_is_created(Session& session) {
  for (const Job& job : query_jobs(session.client)) {
    if (job.type == "create") {
      wait_for_job(session, job.id, after(kCreateTakes));
    }
  }
}

/// Whether it is the bitmap or the job of a level of these chains. Names that only begin so are not ours.
bool is_level_of(const std::vector<ChainId>& chains, const std::string& name) {
  const auto level = parse_chain_level(name);
  return level && std::find(chains.begin(), chains.end(), level->chain) != chains.end();
}

bool is_node_of(const std::vector<ChainId>& chains, const NodeName& name) {
  return std::any_of(chains.begin(), chains.end(), [&](const ChainId& chain) {
    return name == target_node(chain) || name == target_file_node(chain) || name == scratch_node(chain);
  });
}

void remove_nodes(Session& session, const std::vector<ChainId>& chains, std::vector<std::string>& removed) {
  std::vector<NodeName> ours;
  for (const Node& node : query_nodes(session)) {
    if (is_node_of(chains, node.name)) {
      ours.push_back(node.name);
    }
  }
  // A file node can go only after the image on top of it; QEMU lists them in no order to rely on.
  for (std::size_t round = 0; round < 2; ++round) {
    std::erase_if(ours, [&](const NodeName& node) {
      const bool gone = try_execute(session.client, delete_node(node));
      if (gone) {
        removed.push_back("node " + node.value);
      }
      return gone;
    });
  }
  for (const NodeName& node : ours) {
    session.reporter.warning(fmt::format("QEMU keeps the node {} of an earlier run", node.value));
  }
}

void remove_bitmaps(Session& session, const std::vector<ChainId>& chains, const std::vector<BitmapName>& keep,
                    std::vector<std::string>& removed) {
  for (const Node& node : query_nodes(session)) {
    for (const Bitmap& bitmap : node.bitmaps) {
      // Below a snapshot a node is read-only, and QEMU then removes no bitmap that is stored in it: later.
      const bool later = node.read_only && bitmap.persistent;
      const bool kept = std::find(keep.begin(), keep.end(), bitmap.name) != keep.end();
      if (!is_level_of(chains, bitmap.name.value) || kept || later) {
        continue;
      }
      if (try_execute(session.client, remove_bitmap(node.name, bitmap.name))) {
        removed.push_back("bitmap " + bitmap.name.value);
      } else {
        session.reporter.warning(
            fmt::format("QEMU keeps the bitmap {} on node {}, perhaps in use (an NBD export?): a later run removes it",
                        bitmap.name.value, node.name.value));
      }
    }
  }
}

void remove_all_descriptors(Session& session, const std::vector<ChainId>& chains) {
  if (!session.features.descriptors) {
    return;
  }
  for (const json& set : query(session.client, "query-fdsets")) {
    const auto& fds = set.at("fds");
    const bool ours = std::any_of(fds.begin(), fds.end(), [&](const json& fd) {
      return std::any_of(chains.begin(), chains.end(),
                         [&](const ChainId& chain) { return text_of(fd, "opaque") == descriptor_label(chain); });
    });
    if (ours) {  // not reported: QEMU 7.2 still lists a removed set while its VM is stopped
      try_execute(session.client, remove_descriptors(set.at("fdset-id").get<std::int64_t>()));
    }
  }
}

}  // namespace

bool try_execute(QmpClient& client, const QmpCommand& command) {
  try {
    client.execute(command);
    return true;
  } catch (const QmpError&) {
    return false;
  }
}

VmFeatures query_features(QmpClient& client) {
  return parse_features(QmpSchema(query(client, "query-qmp-schema")));
}

std::vector<Job> query_jobs(QmpClient& client) {
  return parse_jobs(query(client, "query-jobs"));
}

std::vector<Node> query_nodes(Session& session) {
  json arguments = json::object();
  if (session.features.flat_nodes) {
    arguments["flat"] = true;  // without the backing files nested in each: a long chain would be listed over and over
  }
  return parse_nodes(query(session.client, "query-named-block-nodes", std::move(arguments)));
}

bool storage_answers(Session& session, const std::string& path) {
  return storage_answers(session.loop, path, kLookTakes);
}

std::string query_status(QmpClient& client) {
  return text_of(query(client, "query-status"), "status");
}

VmState look_at_vm(Session& session) {
  wait_until_nothing_is_created(session);
  QmpClient& client = session.client;
  VmState vm;
  vm.qemu_version = client.qemu_version();
  vm.features = session.features;
  vm.jobs = query_jobs(client);
  vm.devices = parse_devices(query(client, "query-block"));
  vm.nodes = query_nodes(session);
  if (session.features.block_graph) {
    try {
      vm.edges = parse_block_graph(query(client, "x-debug-query-block-graph"));
    } catch (const QmpError&) {
      // -compat unstable-input=reject: as on a QEMU that does not have it.
    }
  }
  vm.status = query_status(client);
  if (session.features.migration) {
    vm.migration_status = text_of(query(client, "query-migrate"), "status");
  }
  if (session.features.identity) {
    vm.identity.name = text_of(query(client, "query-name"), "name");
    vm.identity.uuid = text_of(query(client, "query-uuid"), "UUID");
  }
  return vm;
}

std::optional<Job> wait_for_job(Session& session, const JobId& id, Deadline deadline) {
  for (auto pause = 2ms;; pause = std::min(pause * 2, 200ms)) {
    const std::vector<Job> jobs = query_jobs(session.client);
    const auto job = std::find_if(jobs.begin(), jobs.end(), [&](const Job& candidate) { return candidate.id == id; });
    if (job == jobs.end()) {
      return std::nullopt;
    }
    if (job->is_concluded()) {
      return *job;
    }
    if (std::chrono::steady_clock::now() >= deadline) {
      throw Error(fmt::format("the {} job {} does not end (it is {})", job->type, id.value, job->status),
                  "see whether its storage hangs; the next run looks at it again");
    }
    session.loop.sleep(pause);
  }
}

std::vector<std::string> remove_jobs(Session& session, const std::vector<ChainId>& chains) {
  std::vector<std::string> removed;
  for (const Job& job : query_jobs(session.client)) {
    if (!is_level_of(chains, job.id.value)) {
      continue;
    }
    if (!job.is_concluded()) {
      try_execute(session.client, {"job-cancel", {{"id", job.id.value}}});
    }
    if (wait_for_job(session, job.id, until_cancelled(session))) {
      try_execute(session.client, dismiss_job(job.id));
    }
    removed.push_back("job " + job.id.value);
  }
  return removed;
}

std::vector<std::string> remove_leftovers(Session& session, const std::vector<ChainId>& chains,
                                          const std::vector<BitmapName>& keep) {
  std::vector<std::string> removed = remove_jobs(session, chains);
  remove_nodes(session, chains, removed);
  remove_bitmaps(session, chains, keep, removed);
  remove_all_descriptors(session, chains);
  return removed;
}

}  // namespace qmpbackup
