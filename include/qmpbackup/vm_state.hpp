#pragma once

#include <nlohmann/json.hpp>

#include <optional>
#include <string>
#include <vector>

#include "qmpbackup/ids.hpp"
#include "qmpbackup/manifest.hpp"
#include "qmpbackup/qmp_message.hpp"
#include "qmpbackup/sizes.hpp"

namespace qmpbackup {

/// What this QEMU can do, from its schema.
struct VmFeatures {
  bool backup_never_clears = false;  ///< blockdev-backup sync=bitmap with bitmap-mode=never: QEMU 4.2, the floor
  bool reopen = false;               ///< blockdev-reopen: QEMU 6.1; the only command that reports a failed flush
  bool flat_nodes = false;           ///< query-named-block-nodes flat=true
  bool block_graph = false;          ///< x-debug-query-block-graph
  bool descriptors = false;          ///< add-fd
  bool zstd = false;                 ///< qcow2 compression-type=zstd
  bool human_monitor = false;        ///< human-monitor-command: marks a bitmap (bitmap_marks.hpp)
  bool identity = false;             ///< query-name, query-uuid
  bool migration = false;            ///< query-migrate
};

VmFeatures parse_features(const QmpSchema& schema);

struct Bitmap {
  BitmapName name;  ///< empty for QEMU's own during a job
  ByteCount granularity = 0;
  ByteCount dirty = 0;  ///< `count`: bytes that are marked, in whole granules
  bool recording = true;
  bool busy = false;
  bool persistent = false;
  bool inconsistent = false;
};

struct Node {
  NodeName name;
  std::string driver;
  std::string file;
  ByteCount virtual_size = 0;
  ByteCount allocated = 0;  ///< `actual-size` on the host; 0 where it is not known, as for block devices
  bool read_only = false;
  bool stores_bitmaps = false;  ///< qcow2 version 3 (compat 1.1)
  ByteCount cluster_size = 0;   ///< 0 for a format without clusters
  bool encrypted = false;
  std::vector<Bitmap> bitmaps;

  [[nodiscard]] const Bitmap* find_bitmap(const BitmapName& bitmap) const;
};

struct Edge {
  std::string parent;  ///< a node, a block backend ("drive0", "/machine/peripheral/...") or a job
  std::string child;   ///< a node
  std::string role;    ///< "file", "backing", "root", "target" ...
};

/// A guest device that has a medium, or could have.
struct Device {
  std::string device;  ///< of -drive id=; may be empty
  std::string qdev;    ///< id or QOM path; may be empty
  NodeName root;       ///< the topmost node; empty without a medium
};

struct Job {
  JobId id;
  std::string type;
  std::string status;  ///< "running", "concluded" ... (JobStatus, qapi/job.json)
  ByteCount current = 0;
  ByteCount total = 0;
  std::optional<std::string> error;

  [[nodiscard]] bool is_concluded() const { return status == "concluded"; }
  [[nodiscard]] bool is_ours() const { return parse_chain_level(id.value).has_value(); }
};

std::vector<Job> parse_jobs(const nlohmann::json& reply);

/// The world inside QEMU as far as a backup needs it. Parsed from query-* replies, every one of which is read
/// leniently: what is missing or of another type counts as absent.
struct VmState {
  std::string qemu_version;
  VmFeatures features;
  VmIdentity identity;
  std::string status;            ///< of query-status: "running", "io-error", "prelaunch" ...
  std::string migration_status;  ///< of query-migrate; empty for none
  std::vector<Device> devices;
  std::vector<Node> nodes;
  std::vector<Edge> edges;
  std::vector<Job> jobs;

  [[nodiscard]] const Node* find_node(const NodeName& name) const;
  [[nodiscard]] const Job* find_job(const JobId& id) const;
};

/// Throws ChainError where the chain at `base` was made of another VM than this one: their uuids differ, or only one of
/// them has any and their names differ.
void refuse_other_vm(const std::string& base, const VmIdentity& chain, const VmIdentity& vm);
/// For a message, empty where both are called the same: a VM may be renamed; without its bitmap it is rather another
/// one.
std::string note_of_another_vm(const VmIdentity& chain, const VmIdentity& vm);

std::vector<Device> parse_devices(const nlohmann::json& query_block);
std::vector<Node> parse_nodes(const nlohmann::json& query_named_block_nodes);
/// Node and parent names in place of the graph's numbers; jobs appear as parents by their id.
std::vector<Edge> parse_block_graph(const nlohmann::json& graph);

/// A disk that can be backed up: the node that a backup reads and that its bitmaps live on.
struct Disk {
  std::string label;  ///< what to call it: device name, else qdev id, else node name
  NodeName root;
  NodeName node;                     ///< below all filters: its bitmaps stay when a filter comes or goes
  std::vector<NodeName> path;        ///< from root to node, both included
  bool hidden_below_filter = false;  ///< QEMU does not say what is below the filter `node`
};

/// All disks of the guest's devices, in QEMU's order.
std::vector<Disk> list_disks(const VmState& vm);

/// The disk that `name` means: a device name, else a qdev id or path, else the name of a node on a device's path or of
/// one that nothing uses. Throws ChainError that lists what there is.
Disk find_disk(const VmState& vm, const std::string& name);

/// The bytes that a full backup of a node reads: allocated on the host in the node and its backing files, at most the
/// virtual size; the virtual size where QEMU does not know.
ByteCount allocated_bytes(const VmState& vm, const Disk& disk);

/// Why no disk of the VM can be backed up while it migrates, and what to do about it.
struct MigrationProblem {
  std::string text;
  std::string hint;
};
/// Nothing where no migration is in the way.
std::optional<MigrationProblem> migration_problem(const VmState& vm);

/// A job that works on the disk's nodes, whosever it is, if any.
const Job* job_on(const VmState& vm, const Disk& disk);

/// The nodes from the disk's node down its backing files, the disk's node first.
std::vector<const Node*> backing_chain(const VmState& vm, const Disk& disk);

}  // namespace qmpbackup
