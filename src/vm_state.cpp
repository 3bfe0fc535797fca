#include "qmpbackup/vm_state.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "qmpbackup/json_text.hpp"

namespace qmpbackup {
namespace {

using nlohmann::json;

ByteCount bytes_of(const json& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return object.is_object() && found != object.end() && found->is_number_unsigned() ? found->get<ByteCount>() : 0;
}

bool flag_of(const json& object, const char* key, bool otherwise) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return object.is_object() && found != object.end() && found->is_boolean() ? found->get<bool>() : otherwise;
}

const json& member(const json& object, const char* key) {
  static const json kNothing;
  const auto found = object.is_object() ? object.find(key) : object.end();
  return object.is_object() && found != object.end() ? *found : kNothing;
}

/// Nodes that pass data through unchanged and may come and go: is_filter of QEMU's drivers, and job filters.
bool is_filter(const std::string& driver) {
  static constexpr std::array kFilters{"throttle",    "copy-on-read", "copy-before-write", "backup-top",
                                       "mirror_top",  "commit_top",   "cor_filter",        "compress",
                                       "preallocate", "blkdebug",     "blkverify",         "blklogwrites"};
  return std::find(kFilters.begin(), kFilters.end(), driver) != kFilters.end();
}

const Edge* child_edge(const VmState& vm, const NodeName& node, std::string_view role) {
  const auto found = std::find_if(vm.edges.begin(), vm.edges.end(),
                                  [&](const Edge& edge) { return edge.parent == node.value && edge.role == role; });
  return found == vm.edges.end() ? nullptr : &*found;
}

Disk disk_below(const VmState& vm, const NodeName& root, std::string label) {
  Disk disk{std::move(label), root, root, {root}, false};
  for (std::size_t steps = 0; steps < vm.nodes.size(); ++steps) {  // bounded: a hostile graph may have a circle
    const Node* node = vm.find_node(disk.node);
    if (node == nullptr || !is_filter(node->driver)) {
      break;
    }
    const Edge* below = child_edge(vm, disk.node, "file");
    if (below == nullptr) {
      below = child_edge(vm, disk.node, "backing");
    }
    if (below == nullptr) {
      disk.hidden_below_filter = true;
      break;
    }
    disk.node = NodeName{below->child};
    disk.path.push_back(disk.node);
  }
  return disk;
}

/// "/machine/peripheral/disk0/virtio-backend" -> "disk0"; a plain id stays as it is. An id may hold slashes itself.
std::string qdev_id(const std::string& qdev) {
  static constexpr std::string_view kFront = "/machine/peripheral/";
  static constexpr std::string_view kBack = "/virtio-backend";
  if (!qdev.starts_with(kFront)) {
    return qdev;
  }
  std::string id = qdev.substr(kFront.size());
  if (id.ends_with(kBack)) {
    id.erase(id.size() - kBack.size());
  }
  return id;
}

std::string label_of(const Device& device) {
  if (!device.device.empty()) {
    return device.device;
  }
  return device.qdev.empty() ? device.root.value : qdev_id(device.qdev);
}

std::string describe_devices(const VmState& vm) {
  std::string text;
  for (const Disk& disk : list_disks(vm)) {
    const Node* node = vm.find_node(disk.node);
    text += fmt::format("{}{} ({}, {})", text.empty() ? "" : ", ", disk.label, node ? node->file : "?",
                        format_size(node ? node->virtual_size : 0));
  }
  return text.empty() ? "this VM has no disks" : "the VM's disks: " + text;
}

}  // namespace

VmFeatures parse_features(const QmpSchema& schema) {
  VmFeatures features;
  features.backup_never_clears = schema.has_value("blockdev-backup", {"bitmap-mode"}, "never") &&
                                 schema.has_value("blockdev-backup", {"sync"}, "bitmap");
  features.reopen = schema.has_command("blockdev-reopen");
  features.flat_nodes = schema.has_argument("query-named-block-nodes", {"flat"});
  features.block_graph = schema.has_command("x-debug-query-block-graph");
  features.descriptors = schema.has_command("add-fd") && schema.has_command("remove-fd");
  features.zstd = schema.has_value("blockdev-create", {"options", "compression-type"}, "zstd");
  features.human_monitor = schema.has_command("human-monitor-command");
  features.identity = schema.has_command("query-name") && schema.has_command("query-uuid");
  features.migration = schema.has_command("query-migrate");
  return features;
}

const Bitmap* Node::find_bitmap(const BitmapName& bitmap) const {
  const auto found = std::find_if(bitmaps.begin(), bitmaps.end(), [&](const Bitmap& b) { return b.name == bitmap; });
  return found == bitmaps.end() ? nullptr : &*found;
}

const Node* VmState::find_node(const NodeName& name) const {
  const auto found = std::find_if(nodes.begin(), nodes.end(), [&](const Node& node) { return node.name == name; });
  return found == nodes.end() ? nullptr : &*found;
}

const Job* VmState::find_job(const JobId& id) const {
  const auto found = std::find_if(jobs.begin(), jobs.end(), [&](const Job& job) { return job.id == id; });
  return found == jobs.end() ? nullptr : &*found;
}

void refuse_other_vm(const std::string& base, const VmIdentity& chain, const VmIdentity& vm) {
  const auto is_known = [](const std::string& uuid) { return uuid.find_first_not_of("0-") != std::string::npos; };
  const bool named_apart = !chain.name.empty() && !vm.name.empty() && chain.name != vm.name;
  if (is_known(chain.uuid) && is_known(vm.uuid) ? chain.uuid != vm.uuid
                                                : is_known(chain.uuid) != is_known(vm.uuid) && named_apart) {
    const auto told = [&](const VmIdentity& one) {
      return fmt::format("{} ({})", one.name, is_known(one.uuid) ? one.uuid : "no UUID");
    };
    throw ChainError(fmt::format("{} is a chain of the VM {}; this one is {}", base, told(chain), told(vm)),
                     "give each VM a -backupFile of its own");
  }
}

std::string note_of_another_vm(const VmIdentity& chain, const VmIdentity& vm) {
  return chain.name.empty() || vm.name.empty() || chain.name == vm.name
             ? ""
             : fmt::format("; the chain is of the VM {}, this one is {}", chain.name, vm.name);
}

std::vector<Job> parse_jobs(const json& reply) {
  std::vector<Job> jobs;
  for (const json& entry : reply) {
    Job job{{text_of(entry, "id")},
            text_of(entry, "type"),
            text_of(entry, "status"),
            bytes_of(entry, "current-progress"),
            bytes_of(entry, "total-progress"),
            std::nullopt};
    if (member(entry, "error").is_string()) {
      job.error = text_of(entry, "error");
    }
    jobs.push_back(std::move(job));
  }
  return jobs;
}

std::vector<Device> parse_devices(const json& query_block) {
  std::vector<Device> devices;
  for (const json& entry : query_block) {
    devices.push_back(
        {text_of(entry, "device"), text_of(entry, "qdev"), {text_of(member(entry, "inserted"), "node-name")}});
  }
  return devices;
}

std::vector<Node> parse_nodes(const json& query_named_block_nodes) {
  std::vector<Node> nodes;
  for (const json& entry : query_named_block_nodes) {
    Node node;
    const json& image = member(entry, "image");
    node.name = {text_of(entry, "node-name")};
    node.driver = text_of(entry, "drv");
    node.file = text_of(entry, "file");
    node.virtual_size = bytes_of(image, "virtual-size");
    node.allocated = bytes_of(image, "actual-size");
    node.cluster_size = bytes_of(image, "cluster-size");
    node.read_only = flag_of(entry, "ro", false);
    node.stores_bitmaps =
        node.driver == "qcow2" && text_of(member(member(image, "format-specific"), "data"), "compat") == "1.1";
    node.encrypted = flag_of(entry, "encrypted", false) || node.driver == "luks";
    for (const json& bitmap : member(entry, "dirty-bitmaps")) {
      node.bitmaps.push_back({{text_of(bitmap, "name")},
                              bytes_of(bitmap, "granularity"),
                              bytes_of(bitmap, "count"),
                              flag_of(bitmap, "recording", true),
                              flag_of(bitmap, "busy", false),
                              flag_of(bitmap, "persistent", false),
                              flag_of(bitmap, "inconsistent", false)});
    }
    nodes.push_back(std::move(node));
  }
  return nodes;
}

std::vector<Edge> parse_block_graph(const json& graph) {
  std::map<ByteCount, std::string> names;
  for (const json& node : member(graph, "nodes")) {
    names[bytes_of(node, "id")] = text_of(node, "name");
  }
  std::vector<Edge> edges;
  for (const json& edge : member(graph, "edges")) {
    edges.push_back({names[bytes_of(edge, "parent")], names[bytes_of(edge, "child")], text_of(edge, "name")});
  }
  return edges;
}

std::vector<Disk> list_disks(const VmState& vm) {
  std::vector<Disk> disks;
  for (const Device& device : vm.devices) {
    if (!device.root.value.empty()) {
      disks.push_back(disk_below(vm, device.root, label_of(device)));
    }
  }
  return disks;
}

namespace {

/// A disk's qdev id may be another one's device name: the device name counts first.
const Device* find_device(const VmState& vm, const std::string& name) {
  const auto find = [&](auto&& is_meant) {
    const auto found = std::find_if(vm.devices.begin(), vm.devices.end(), is_meant);
    return found == vm.devices.end() ? nullptr : &*found;
  };
  const Device* by_name = find([&](const Device& device) { return device.device == name; });
  return by_name != nullptr ? by_name : find([&](const Device& device) {
    return device.qdev == name || device.qdev == name + "/virtio-backend" || qdev_id(device.qdev) == name;
  });
}

Disk find_any_disk(const VmState& vm, const std::string& name) {
  if (const Device* device = name.empty() ? nullptr : find_device(vm, name)) {
    if (device->root.value.empty()) {
      throw ChainError(fmt::format("{}: the device has no medium", name), describe_devices(vm));
    }
    return disk_below(vm, device->root, label_of(*device));
  }
  for (const Device& device : vm.devices) {
    if (device.root.value.empty()) {
      continue;
    }
    Disk disk = disk_below(vm, device.root, label_of(device));
    if (std::find(disk.path.begin(), disk.path.end(), NodeName{name}) != disk.path.end()) {
      return disk;
    }
  }
  if (vm.find_node({name}) != nullptr) {
    const bool used =
        std::any_of(vm.edges.begin(), vm.edges.end(), [&](const Edge& edge) { return edge.child == name; });
    if (!used) {
      return disk_below(vm, {name}, name);
    }
    for (const Disk& disk : list_disks(vm)) {
      const std::vector<const Node*> chain = backing_chain(vm, disk);
      if (std::any_of(chain.begin(), chain.end(), [&](const Node* node) { return node->name.value == name; })) {
        throw ChainError(
            fmt::format("{}: this node is below a snapshot of the disk {}, and does not see what the guest "
                        "writes now",
                        name, disk.label),
            fmt::format("back that up: -deviceToBackup {}", disk.label));
      }
    }
    throw ChainError(fmt::format("{}: this node is a part of another disk; its content alone is no disk", name),
                     describe_devices(vm));
  }
  throw ChainError(fmt::format("no device, qdev id or node is called '{}'", name), describe_devices(vm));
}

}  // namespace

Disk find_disk(const VmState& vm, const std::string& name) {
  Disk disk = find_any_disk(vm, name);
  if (disk.hidden_below_filter) {
    throw ChainError(fmt::format("{}: cannot see which node is below the filter {}", disk.label, disk.node.value),
                     "name the node below the filter with -deviceToBackup");
  }
  return disk;
}

std::vector<const Node*> backing_chain(const VmState& vm, const Disk& disk) {
  std::vector<const Node*> chain;
  const Node* node = vm.find_node(disk.node);
  while (node != nullptr && chain.size() < vm.nodes.size()) {
    chain.push_back(node);
    const Edge* edge = child_edge(vm, node->name, "backing");
    node = edge == nullptr ? nullptr : vm.find_node({edge->child});
  }
  return chain;
}

ByteCount allocated_bytes(const VmState& vm, const Disk& disk) {
  const std::vector<const Node*> chain = backing_chain(vm, disk);
  const ByteCount virtual_size = chain.empty() ? 0 : chain.front()->virtual_size;
  ByteCount sum = 0;
  for (const Node* node : chain) {
    if (node->allocated == 0) {
      return virtual_size;
    }
    sum += node->allocated;
  }
  return std::min(sum, virtual_size);
}

std::optional<MigrationProblem> migration_problem(const VmState& vm) {
  static constexpr std::array kUnderWay{"setup",           "active",          "pre-switchover",   "device",
                                        "postcopy-active", "postcopy-paused", "postcopy-recover", "colo",
                                        "wait-unplug",     "cancelling"};
  if (std::find(kUnderWay.begin(), kUnderWay.end(), vm.migration_status) != kUnderWay.end()) {
    return MigrationProblem{fmt::format("a migration is under way ({})", vm.migration_status),
                            "try again when it is over"};
  }
  // A paused VM whose migration was cancelled stays in "postmigrate" too, but has its disks back.
  const bool given_away = vm.status == "postmigrate" && vm.migration_status == "completed";
  if (vm.status == "inmigrate" || vm.status == "finish-migrate" || given_away) {
    return MigrationProblem{fmt::format("the VM is in state {}: its disks belong to another QEMU", vm.status),
                            "try again where it runs"};
  }
  return std::nullopt;
}

const Job* job_on(const VmState& vm, const Disk& disk) {
  for (const Job& job : vm.jobs) {
    const bool on_disk = std::any_of(vm.edges.begin(), vm.edges.end(), [&](const Edge& edge) {
      return edge.parent == job.id.value &&
             std::find(disk.path.begin(), disk.path.end(), NodeName{edge.child}) != disk.path.end();
    });
    if (on_disk) {
      return &job;
    }
  }
  return nullptr;
}

}  // namespace qmpbackup
