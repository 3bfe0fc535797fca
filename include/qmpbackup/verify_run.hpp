#pragma once

#include "qmpbackup/chain_files.hpp"
#include "qmpbackup/event_loop.hpp"
#include "qmpbackup/reporter.hpp"

namespace qmpbackup {

/// Checks every level of a chain and says what each check proves: the file is there with the size, backing link and
/// disk size of the manifest; its bytes are those that were committed (SHA-256); its qcow2 structure is sound (qemu-img
/// check); it holds as much as its job copied (qemu-img map). `deep` also reads and decompresses every cluster of the
/// newest level through the whole chain. Prints a verdict for each level, and which points in time restore. Changes
/// nothing. Throws DamageFound when a level is damaged or the manifest is, ChainError when there is no chain.
void run_verify(EventLoop& loop, Reporter& reporter, const ChainFiles& files, bool deep);

}  // namespace qmpbackup
