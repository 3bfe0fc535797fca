#include "qmpbackup/connection.hpp"

namespace qmpbackup {

QmpClient connect(EventLoop& loop, Reporter& reporter, const Connection& connection) {
  return QmpClient(loop, connection.address, connection.timeouts,
                   [&reporter, trace = connection.trace](std::string_view direction, std::string_view line) {
                     if (trace) {
                       reporter.trace(direction, line);
                     }
                   });
}

}  // namespace qmpbackup
