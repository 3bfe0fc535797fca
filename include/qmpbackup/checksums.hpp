#pragma once

#include <vector>

#include "qmpbackup/chain_files.hpp"
#include "qmpbackup/chain_on_disk.hpp"
#include "qmpbackup/chain_view.hpp"
#include "qmpbackup/manifest.hpp"

namespace qmpbackup {

/// BASE.sha256 from the manifest, for `sha256sum -c` in the chain's folder. Throws FileError.
void write_checksums(const ChainFiles& files, const Manifest& manifest);

/// view_chain; without a manifest the levels have the checksums that stand in BASE.sha256.
std::vector<LevelView> view_with_checksums(const ChainOnDisk& chain, const ChainFiles& files);

}  // namespace qmpbackup
