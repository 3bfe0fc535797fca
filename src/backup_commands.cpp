#include "qmpbackup/backup_commands.hpp"

#include <fmt/format.h>

#include "qmpbackup/bitmap_marks.hpp"
#include "qmpbackup/level_bitmap.hpp"

namespace qmpbackup {

QmpCommand add_descriptor(const DiskPlan& plan) {
  return {"add-fd", {{"fdset-id", plan.fdset_id}, {"opaque", descriptor_label(plan.pending().chain)}}};
}

QmpCommand add_file_node(const DiskPlan& plan) {
  const std::string path = plan.path_for_qemu.value_or(fmt::format("/dev/fdset/{}", plan.fdset_id));
  return {"blockdev-add",
          {{"driver", "file"},
           {"node-name", target_file_node(plan.pending().chain).value},
           {"filename", path},
           {"cache", {{"direct", plan.direct_io}, {"no-flush", false}}}}};
}

ImageFormat image_format(const DiskPlan& plan) {
  const Pending& pending = plan.pending();
  return {.virtual_size = pending.virtual_size,
          .cluster_size = pending.cluster_size,
          .zstd = pending.compression == "zstd",
          .backing_link = pending.level.is_full() ? "" : plan.files.backing_link(plan.intent.last()->level)};
}

QmpCommand add_target(const Pending& pending) {
  return {"blockdev-add",
          {{"driver", "qcow2"},
           {"node-name", target_node(pending.chain).value},
           {"file", target_file_node(pending.chain).value},
           {"backing", nullptr}}};
}

QmpCommand transaction(nlohmann::json actions) {
  return {"transaction", {{"actions", std::move(actions)}}};
}

bool compares_marks(const DiskPlan& plan) {
  const LevelRecord* last = plan.previous_bitmap ? plan.intent.last() : nullptr;
  return last != nullptr && plan.pending().marks > 0 && has_known_marks(*last) &&
         last->virtual_size <= plan.pending().virtual_size;
}

QmpCommand start_backup(const std::vector<DiskPlan>& plans) {
  nlohmann::json actions = nlohmann::json::array();
  for (const DiskPlan& plan : plans) {
    const Pending& pending = plan.pending();
    if (compares_marks(plan)) {
      for (nlohmann::json& action :
           compare_with_marks(scratch_node(pending.chain), kOldMarks, plan.disk.node, *plan.previous_bitmap)) {
        actions.push_back(std::move(action));
      }
    }
    actions.push_back({{"type", "block-dirty-bitmap-add"},
                       {"data",
                        {{"node", plan.disk.node.value},
                         {"name", pending.bitmap.value},
                         {"persistent", plan.persistent},
                         {"granularity", pending.granularity}}}});
    if (pending.marks > 0) {
      actions.push_back({{"type", "block-dirty-bitmap-merge"},
                         {"data",
                          {{"node", plan.disk.node.value},
                           {"target", pending.bitmap.value},
                           {"bitmaps", nlohmann::json::array({{{"node", scratch_node(pending.chain).value},
                                                               {"name", kMarks.value}}})}}}});
    }
    nlohmann::json backup{{"job-id", pending.job.value},
                          {"device", plan.disk.node.value},
                          {"target", target_node(pending.chain).value},
                          {"sync", plan.previous_bitmap ? "bitmap" : "full"},
                          {"auto-dismiss", false},
                          {"compress", pending.compression != "none"},
                          {"on-source-error", "report"},
                          {"on-target-error", "report"}};
    if (plan.previous_bitmap) {
      backup["bitmap"] = plan.previous_bitmap->value;
      backup["bitmap-mode"] = "never";
    }
    if (plan.speed_bytes_per_second) {
      backup["speed"] = *plan.speed_bytes_per_second;
    }
    actions.push_back({{"type", "blockdev-backup"}, {"data", std::move(backup)}});
  }
  return transaction(std::move(actions));
}

QmpCommand reopen_read_only(const Pending& pending) {
  nlohmann::json options = add_target(pending).arguments;
  options["read-only"] = true;
  return {"blockdev-reopen", {{"options", nlohmann::json::array({std::move(options)})}}};
}

QmpCommand delete_node(const NodeName& node) {
  return {"blockdev-del", {{"node-name", node.value}}};
}
QmpCommand set_speed(const JobId& job, ByteCount bytes_per_second) {
  return {"block-job-set-speed", {{"device", job.value}, {"speed", bytes_per_second}}};
}
QmpCommand dismiss_job(const JobId& job) {
  return {"job-dismiss", {{"id", job.value}}};
}
QmpCommand remove_bitmap(const NodeName& node, const BitmapName& bitmap) {
  return {"block-dirty-bitmap-remove", {{"node", node.value}, {"name", bitmap.value}}};
}

QmpCommand remove_descriptors(std::int64_t fdset_id) {
  return {"remove-fd", {{"fdset-id", fdset_id}}};
}

std::vector<Access> accesses(const DiskPlan& plan) {
  if (plan.path_for_qemu) {
    return {};
  }
  std::vector<Access> all{{.writable = true, .direct = false}, {.writable = false, .direct = false}};
  if (plan.direct_io) {
    all.insert(all.end(), {{.writable = true, .direct = true}, {.writable = false, .direct = true}});
  }
  return all;
}

std::vector<QmpCommand> list_commands(const BackupPlan& plan) {
  std::vector<QmpCommand> commands;
  const auto append = [&](const std::vector<QmpCommand>& more) {
    commands.insert(commands.end(), more.begin(), more.end());
  };
  for (const DiskPlan& disk : plan.disks) {
    if (compares_marks(disk)) {
      const NodeName scratch = scratch_node(disk.pending().chain);
      append({add_scratch_node(scratch, disk.pending().virtual_size)});
      append(add_marks(scratch, kOldMarks, disk.intent.last()->virtual_size, disk.intent.last()->marks_seed));
      append({transaction(compare_with_marks(scratch, kOldMarks, disk.disk.node, *disk.previous_bitmap)),
              delete_node(scratch)});
    }
  }
  for (const DiskPlan& disk : plan.disks) {
    commands.insert(commands.end(), accesses(disk).size(), add_descriptor(disk));
    commands.insert(commands.end(), {add_file_node(disk), add_target(disk.pending())});
    if (disk.pending().marks > 0) {
      const NodeName scratch = scratch_node(disk.pending().chain);
      append({add_scratch_node(scratch, disk.pending().virtual_size)});
      if (compares_marks(disk)) {
        append(add_marks(scratch, kOldMarks, disk.intent.last()->virtual_size, disk.intent.last()->marks_seed));
      }
      append(add_marks(scratch, kMarks, disk.pending().virtual_size, disk.pending().marks_seed));
    }
  }
  commands.push_back(start_backup(plan.disks));
  for (const DiskPlan& disk : plan.disks) {
    const ChainId& chain = disk.pending().chain;
    if (disk.pending().marks > 0) {
      commands.push_back(delete_node(scratch_node(chain)));
    }
    commands.insert(commands.end(), {reopen_read_only(disk.pending()), delete_node(target_node(chain)),
                                     delete_node(target_file_node(chain)), dismiss_job(disk.pending().job)});
    if (disk.previous_bitmap) {
      commands.push_back(remove_bitmap(disk.disk.node, *disk.previous_bitmap));
    }
    if (!disk.path_for_qemu) {
      commands.push_back(remove_descriptors(disk.fdset_id));
    }
  }
  return commands;
}

}  // namespace qmpbackup
