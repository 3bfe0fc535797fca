#pragma once

#include <nlohmann/json.hpp>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "qmpbackup/event_loop.hpp"
#include "qmpbackup/qmp_message.hpp"

namespace qmpbackup {

/// Where a QMP monitor listens.
struct QmpAddress {
  bool is_tcp = false;
  std::string path;  ///< of a UNIX socket
  std::string host;
  std::string port;

  [[nodiscard]] std::string text() const;
};

/// "PATH", "unix:PATH" or "tcp:HOST:PORT" ("tcp:[::1]:4444" for IPv6). Throws UsageError.
QmpAddress parse_qmp_address(const std::string& text);

/// A QMP connection, used one command at a time.
///
/// Every wait ends at a deadline (ConnectionLost) or by a signal (Interrupted). After either, the client stays usable:
/// a late reply is told by its id and skipped. A broken connection makes this call and all later ones throw
/// ConnectionLost.
class QmpClient {
 public:
  /// Called with each message as it is sent ("->") and received ("<-").
  using Trace = std::function<void(std::string_view direction, std::string_view line)>;

  struct Timeouts {
    std::chrono::steady_clock::duration connect = std::chrono::seconds(5);  ///< connection and greeting
    std::chrono::steady_clock::duration reply = std::chrono::minutes(10);
  };

  /// Connects, awaits the greeting and negotiates capabilities. Throws ConnectError: nobody listens, not QMP, or no
  /// greeting because another client holds the monitor (QEMU serves one client at a time) or QEMU hangs.
  QmpClient(EventLoop& loop, const QmpAddress& address, Timeouts timeouts, Trace trace);
  QmpClient(const QmpClient&) = delete;
  QmpClient& operator=(const QmpClient&) = delete;
  ~QmpClient();

  /// Sends a command and returns its reply's value. `descriptors` travel with it (SCM_RIGHTS; UNIX sockets only) and
  /// stay the caller's. Throws QmpError when QEMU refuses.
  nlohmann::json execute(const QmpCommand& command, const std::vector<int>& descriptors = {});

  /// The next event that came, waiting for it until the deadline; nothing when none came.
  std::optional<QmpEvent> next_event(Deadline deadline);

  /// When QEMU announced its shutdown, whatever failed may have failed because of it: waits for the end of the
  /// connection, which throws ConnectionLost. Returns when there was no such event, or the end does not come within the
  /// time that a connection may take (QEMU can be told to stay: -no-shutdown). Drops events.
  void throw_if_qemu_ends();

  /// Gives the monitor free for another client. Every later call throws ConnectionLost.
  void close();

  [[nodiscard]] const std::string& qemu_version() const;

 private:
  struct Connection;
  std::shared_ptr<Connection> connection_;
};

}  // namespace qmpbackup
