#pragma once

#include <cstdint>
#include <vector>

#include "qmpbackup/backup_planner.hpp"
#include "qmpbackup/qmp_message.hpp"

namespace qmpbackup {

// The QMP commands of a plan, in the order of the run. Pure: nothing is sent.
QmpCommand add_descriptor(const DiskPlan& plan);  ///< sent once for each descriptor
QmpCommand remove_descriptors(std::int64_t fdset_id);
QmpCommand add_file_node(const DiskPlan& plan);
QmpCommand create_image(const DiskPlan& plan);
QmpCommand add_target(const Pending& pending);
/// One transaction for all disks: the point in time.
QmpCommand start_backup(const std::vector<DiskPlan>& plans);
QmpCommand reopen_read_only(const Pending& pending);
QmpCommand delete_node(const NodeName& node);
QmpCommand dismiss_job(const JobId& job);
QmpCommand remove_bitmap(const NodeName& node, const BitmapName& bitmap);

/// The open(2) flags of the descriptors that QEMU gets: one for each way in which it opens the file (10.0 matches
/// O_DIRECT too). None where it opens the file itself.
std::vector<int> descriptor_flags(const DiskPlan& plan);

/// All of the above for `--dry-run`.
std::vector<QmpCommand> list_commands(const BackupPlan& plan);

}  // namespace qmpbackup
