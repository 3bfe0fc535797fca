#include "qmpbackup/info_run.hpp"

#include <fmt/format.h>

#include "qmpbackup/chain_on_disk.hpp"
#include "qmpbackup/session.hpp"
#include "qmpbackup/table.hpp"

namespace qmpbackup {
namespace {

using nlohmann::json;

std::string describe(const Bitmap& bitmap) {
  const auto ours = parse_chain_level(bitmap.name.value);
  const std::string state = bitmap.inconsistent ? "inconsistent: useless since QEMU was killed"
                            : bitmap.busy       ? "busy"
                            : !bitmap.recording ? "not recording"
                                                : format_size(bitmap.dirty) + " dirty";
  if (ours) {
    return fmt::format("chain {}, since {}: {}", ours->chain.text(), level_name(ours->level), state);
  }
  const std::string kept = bitmap.persistent ? "" : ", lost when QEMU exits";
  return fmt::format("{}: {}{}",
                     bitmap.name == kForeignBitmap ? bitmap.name.value + " of the Go tool (--adopt)"
                                                   : "foreign bitmap " + bitmap.name.value,
                     state, kept);
}

/// What a backup of the disk would meet now.
std::string outlook(const VmState& vm, const Disk& disk, const Node& node) {
  if (const auto problem = migration_problem(vm)) {
    return fmt::format("no backup now: {}; {}", problem->text, problem->hint);
  }
  if (const Job* job = job_on(vm, disk)) {
    return fmt::format("no backup now: the {} job {} works on it", job->type, job->id.value);
  }
  std::vector<std::string> levels;
  for (const Bitmap& bitmap : node.bitmaps) {
    const auto ours = parse_chain_level(bitmap.name.value);
    if (ours && !bitmap.inconsistent && bitmap.recording) {
      levels.push_back(level_name(ours->level.next()) + (bitmap.persistent ? "" : " (until QEMU exits)"));
    }
  }
  return levels.empty()       ? "the next backup is a full"
         : levels.size() == 1 ? "an incremental is possible: next level " + levels.front()
                              : fmt::format("an incremental is possible in each of {} chains", levels.size());
}

json to_json(const Bitmap& bitmap) {
  const auto ours = parse_chain_level(bitmap.name.value);
  return {{"name", bitmap.name.value},
          {"ours", ours.has_value()},
          {"chain", ours ? json(ours->chain.text()) : json(nullptr)},
          {"next_level", ours ? json(ours->level.next().number) : json(nullptr)},
          {"bytes_dirty", bitmap.dirty},
          {"recording", bitmap.recording},
          {"busy", bitmap.busy},
          {"persistent", bitmap.persistent},
          {"inconsistent", bitmap.inconsistent}};
}

}  // namespace

void run_info(EventLoop& loop, Reporter& reporter, const Connection& connection) {
  QmpClient client = connect(loop, reporter, connection);
  Session session{loop, reporter, client, query_features(client), connection.timeouts.reply};
  const VmState vm = look_at_vm(session);

  json disks = json::array();
  std::vector<std::vector<std::string>> rows{{"device", "node", "format", "size", "file"}};
  std::vector<std::string> notes;
  for (const Disk& disk : list_disks(vm)) {
    const Node* node = vm.find_node(disk.node);
    if (node == nullptr) {
      continue;
    }
    rows.push_back({disk.label, disk.node.value, node->driver, format_size(node->virtual_size), node->file});
    notes.push_back(fmt::format("{}: {}", disk.label, outlook(vm, disk, *node)));
    json bitmaps = json::array();
    for (const Bitmap& bitmap : node->bitmaps) {
      if (!bitmap.name.value.empty()) {
        notes.push_back("  " + describe(bitmap));
        bitmaps.push_back(to_json(bitmap));
      }
    }
    disks.push_back({{"device", disk.label},
                     {"node", disk.node.value},
                     {"format", node->driver},
                     {"file", node->file},
                     {"virtual_size", node->virtual_size},
                     {"allocated", allocated_bytes(vm, disk)},
                     {"outlook", outlook(vm, disk, *node)},
                     {"bitmaps", std::move(bitmaps)}});
  }
  json jobs = json::array();
  for (const Job& job : vm.jobs) {
    notes.push_back(
        fmt::format("job {}{}: {}, {}", job.id.value, job.is_ours() ? "" : " (foreign)", job.type, job.status));
    jobs.push_back({{"id", job.id.value}, {"ours", job.is_ours()}, {"type", job.type}, {"status", job.status}});
  }

  std::vector<std::string> lines{fmt::format("{}QEMU {}, {}", vm.identity.name.empty() ? "" : vm.identity.name + ": ",
                                             vm.qemu_version, vm.status)};
  const auto table = format_table({Align::kLeft, Align::kLeft, Align::kLeft, Align::kRight, Align::kLeft}, rows);
  lines.insert(lines.end(), table.begin(), table.end());
  lines.insert(lines.end(), notes.begin(), notes.end());
  reporter.result(lines, {{"command", "info"},
                          {"vm", vm.identity.name},
                          {"qemu", vm.qemu_version},
                          {"status", vm.status},
                          {"disks", std::move(disks)},
                          {"jobs", std::move(jobs)}});
}

}  // namespace qmpbackup
