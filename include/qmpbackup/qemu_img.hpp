#pragma once

#include <string>

#include "qmpbackup/event_loop.hpp"
#include "qmpbackup/image_map.hpp"

namespace qmpbackup {

// qemu-img on single level files: without their backing files, read-only, whatever they are called. All block until
// done, throw Error with qemu-img's own words when it fails, and Interrupted.

/// What a qcow2 file itself holds.
ImageMap map_image(EventLoop& loop, const std::string& path);

/// Reads every cluster that the file itself holds, decompressing. Throws Error where one cannot be read.
void read_image(EventLoop& loop, const std::string& path, ByteCount virtual_size);

}  // namespace qmpbackup
