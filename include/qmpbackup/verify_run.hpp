#pragma once

#include "qmpbackup/chain_files.hpp"
#include "qmpbackup/event_loop.hpp"
#include "qmpbackup/reporter.hpp"

namespace qmpbackup {

/// Checks every level of a chain (level_check.hpp) and says what each check proves. `deep` also reads and decompresses
/// every cluster of the newest level through the whole chain, and of each level that has no checksum. Prints a verdict
/// for each level, and which points in time restore. Changes nothing but what a merge left to do, where it can. Needs
/// no lock: where another run changes the chain meanwhile it begins again. Throws DamageFound when a level is damaged
/// or the manifest is, ChainError when there is no chain or no level yet, ChainBusy when the chain does not come to
/// rest.
void run_verify(EventLoop& loop, Reporter& reporter, const ChainFiles& files, bool deep);

}  // namespace qmpbackup
