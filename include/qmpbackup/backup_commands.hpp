#pragma once

#include <cstdint>
#include <vector>

#include "qmpbackup/backup_planner.hpp"
#include "qmpbackup/qcow2_header.hpp"
#include "qmpbackup/qmp_message.hpp"

namespace qmpbackup {

// The QMP commands of a plan, in the order of the run. Pure: nothing is sent.
QmpCommand add_descriptor(const DiskPlan& plan);  ///< sent once for each descriptor
QmpCommand remove_descriptors(std::int64_t fdset_id);
QmpCommand add_file_node(const DiskPlan& plan);
/// What the level's file is formatted with before QEMU gets it.
ImageFormat image_format(const DiskPlan& plan);
QmpCommand add_target(const Pending& pending);
QmpCommand transaction(nlohmann::json actions);
/// Whether the previous level's bitmap began with marks that can be looked for again (bitmap_marks.hpp).
bool compares_marks(const DiskPlan& plan);
/// One transaction for all disks: the point in time. At which kCopy and kUnion tell whether the marks were there still.
QmpCommand start_backup(const std::vector<DiskPlan>& plans);
QmpCommand reopen_read_only(const Pending& pending);
QmpCommand delete_node(const NodeName& node);
QmpCommand set_speed(const JobId& job, ByteCount bytes_per_second);  ///< 0: no limit
QmpCommand dismiss_job(const JobId& job);
QmpCommand remove_bitmap(const NodeName& node, const BitmapName& bitmap);

/// A way in which QEMU opens the target's file.
struct Access {
  bool writable;
  bool direct;  ///< O_DIRECT: QEMU 10.0 matches it too
};
/// QEMU gets one descriptor for each. None where it opens the file itself.
std::vector<Access> accesses(const DiskPlan& plan);

/// All of the above for `--dry-run`.
std::vector<QmpCommand> list_commands(const BackupPlan& plan);

}  // namespace qmpbackup
