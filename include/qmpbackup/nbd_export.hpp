#pragma once

#include <functional>
#include <string>

#include "qmpbackup/event_loop.hpp"

namespace qmpbackup {

/// Serves an image (a name for qemu-nbd) read-only over NBD on the new UNIX socket `socket`, an absolute path. Calls
/// `on_served` as soon as clients can connect. From then on a signal is the normal end, and it returns; one that comes
/// before throws Interrupted. The socket is gone afterwards. Throws ChainError where something has its name, Error.
void serve_over_nbd(EventLoop& loop, const std::string& image, const std::string& socket,
                    const std::function<void()>& on_served);

/// The URI of such an export.
std::string nbd_uri(const std::string& socket);

}  // namespace qmpbackup
