#pragma once

#include "qmpbackup/event_loop.hpp"
#include "qmpbackup/qmp_client.hpp"
#include "qmpbackup/reporter.hpp"

namespace qmpbackup {

/// How to reach QEMU and how long to wait for it.
struct Connection {
  QmpAddress address;
  QmpClient::Timeouts timeouts;
  bool trace = false;
};

/// Connects; messages are traced on the reporter when asked for. Throws ConnectError.
QmpClient connect(EventLoop& loop, Reporter& reporter, const Connection& connection);

}  // namespace qmpbackup
