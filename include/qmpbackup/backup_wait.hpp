#pragma once

#include <vector>

#include "qmpbackup/manifest.hpp"
#include "qmpbackup/session.hpp"

namespace qmpbackup {

/// Waits until the backup jobs of all these runs have concluded without error, showing progress. Throws Error when one
/// failed, vanished, has not moved for the session's stall timeout, or when the guest suffers: it stopped on an I/O
/// error, or a write of it failed, since its writes wait for the copy of what they replace. Cancels nothing: undo_level
/// does.
void wait_for_backups(Session& session, const std::vector<Pending>& runs);

}  // namespace qmpbackup
