#pragma once

#include <optional>
#include <string>

#include "qmpbackup/sizes.hpp"

namespace qmpbackup {

/// The folder's free bytes for this user; nothing when the system does not say.
std::optional<ByteCount> free_bytes(const std::string& folder);
/// Whether this user may create files in the folder.
bool is_writable_folder(const std::string& folder);
bool is_folder(const std::string& path);
/// Whether the folder's file system takes O_DIRECT. Tries it on a file without a name, or, where it has none of these,
/// on `file` in it; false when that is not there.
bool takes_direct_io(const std::string& folder, const std::string& file);

}  // namespace qmpbackup
