#pragma once

#include "qmpbackup/connection.hpp"

namespace qmpbackup {

/// Shows the VM's disks, the bitmaps on them with what the next incremental would copy, and its jobs: this program's,
/// and others marked as foreign. Changes nothing. Throws ConnectError.
void run_info(EventLoop& loop, Reporter& reporter, const Connection& connection);

}  // namespace qmpbackup
