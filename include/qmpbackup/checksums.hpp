#pragma once

#include <optional>
#include <string>
#include <vector>

#include "qmpbackup/chain_files.hpp"
#include "qmpbackup/chain_on_disk.hpp"
#include "qmpbackup/chain_view.hpp"
#include "qmpbackup/manifest.hpp"

namespace qmpbackup {

/// BASE.sha256 from the manifest, for `sha256sum -c` in the chain's folder. Throws FileError.
void write_checksums(const ChainFiles& files, const Manifest& manifest);

/// The checksum of a level in BASE.sha256; nothing where that has none.
std::optional<std::string> checksum_of(const ChainFiles& files, Level level);

/// view_chain; levels that no manifest tells of have the checksums that stand in BASE.sha256. Where there is a
/// manifest, one without a checksum there is of no use: it may be of another chain.
std::vector<LevelView> view_with_checksums(const ChainOnDisk& chain, const ChainFiles& files);

}  // namespace qmpbackup
