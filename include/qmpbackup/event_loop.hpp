#pragma once

#include <chrono>
#include <functional>
#include <memory>

namespace asio {
class io_context;
}

namespace qmpbackup {

using Deadline = std::chrono::steady_clock::time_point;

/// A deadline so far away from now.
Deadline after(std::chrono::steady_clock::duration duration);

/// The one place where this program waits: for the socket, child processes, timers and signals.
///
/// SIGINT, SIGTERM and SIGHUP make the wait under way, or the next one, throw Interrupted, unless a Shield lives. A
/// second signal ends the process at once with 128+n. A SIGHUP that was ignored at the start (nohup) stays ignored.
/// SIGPIPE is ignored.
class EventLoop {
 public:
  EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;
  ~EventLoop();

  /// Waits until `done()`; false when the deadline came first. Throws Interrupted.
  bool wait_until(const std::function<bool()>& done, Deadline deadline);

  /// Does what can be done without waiting. For work between two waits that takes long. Throws Interrupted.
  void poll();

  /// Waits so long. Throws Interrupted.
  void sleep(std::chrono::steady_clock::duration duration);

  asio::io_context& context();

  /// While one lives, a first signal is noted and thrown only after it.
  class Shield {
   public:
    explicit Shield(EventLoop& loop);
    Shield(const Shield&) = delete;
    Shield& operator=(const Shield&) = delete;
    ~Shield();

   private:
    EventLoop& loop_;
  };

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace qmpbackup
