#pragma once

#include <string>

#include "qmpbackup/event_loop.hpp"
#include "qmpbackup/reporter.hpp"

namespace qmpbackup {

/// Shows the levels of the chain at `base`, or of all chains in a folder of that name: a table, or with json one
/// summary. Reads manifests and the fronts of the files alone, changes nothing. Works from the files when the manifest
/// is lost. Prints nothing when quiet. Needs no lock, like verify. Throws ChainError when there is no chain.
void run_list(EventLoop& loop, Reporter& reporter, const std::string& base);

}  // namespace qmpbackup
