#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "qmpbackup/event_loop.hpp"
#include "qmpbackup/image_map.hpp"

namespace qmpbackup {

/// What `qemu-img convert -p` prints over and over, "(12.34/100%)", as a share from 0 to 1; nothing in other text.
std::optional<double> convert_progress(std::string_view piece);

// qemu-img on whole chains.

/// A level with everything below it, as a name for qemu-img: every file is named, no backing link is followed. `paths`:
/// the full's first.
std::string chain_image(const std::vector<std::string>& paths);

/// Reads every cluster that a level shows, through the whole chain, decompressing. Throws Error where one cannot be
/// read.
void read_chain_image(EventLoop& loop, const std::vector<std::string>& paths, ByteCount virtual_size);

// qemu-img on single level files: without their backing files, read-only, whatever they are called. All block until
// done, throw Error with qemu-img's own words when it fails, and Interrupted.

/// What a qcow2 file itself holds.
ImageMap map_image(EventLoop& loop, const std::string& path);

/// `qemu-img check` of a qcow2 file. Throws Error where its structure is damaged; leaked clusters are harmless and
/// pass.
void check_image(EventLoop& loop, const std::string& path);

/// Reads every cluster that the file itself holds, decompressing. Throws Error where one cannot be read.
void read_image(EventLoop& loop, const std::string& path, ByteCount virtual_size);

}  // namespace qmpbackup
