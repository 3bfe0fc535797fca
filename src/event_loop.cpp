#include "qmpbackup/event_loop.hpp"

#include <asio.hpp>
#include <unistd.h>

#include <csignal>

#include "qmpbackup/errors.hpp"

namespace qmpbackup {
namespace {

bool is_ignored(int signal_number) {
  struct sigaction action {};
  return sigaction(signal_number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

}  // namespace

struct EventLoop::State {
  asio::io_context context{1};
  asio::signal_set signals{context};
  int signal_number = 0;  ///< the first signal that came; 0 for none
  bool thrown = false;
  int shields = 0;

  void await_signal() {
    signals.async_wait([this](const asio::error_code& error, int number) {
      if (error) {
        return;
      }
      if (signal_number != 0) {
        _exit(128 + number);
      }
      signal_number = number;
      await_signal();
    });
  }

  void throw_if_interrupted() {
    if (signal_number != 0 && shields == 0 && !thrown) {
      thrown = true;
      throw Interrupted(signal_number);
    }
  }
};

Deadline after(std::chrono::steady_clock::duration duration) {
  return std::chrono::steady_clock::now() + duration;
}

EventLoop::EventLoop() : state_(std::make_unique<State>()) {
  sigset_t wanted;  // a parent may have blocked them
  sigemptyset(&wanted);
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) {
    sigaddset(&wanted, number);
  }
  sigprocmask(SIG_UNBLOCK, &wanted, nullptr);
  state_->signals.add(SIGINT);
  state_->signals.add(SIGTERM);
  if (!is_ignored(SIGHUP)) {
    state_->signals.add(SIGHUP);
  }
  (void)std::signal(SIGPIPE, SIG_IGN);
  (void)std::signal(SIGXFSZ, SIG_IGN);  // the write then says so
  (void)std::signal(SIGCHLD, SIG_DFL);  // ignored, as a parent may leave it, a child's exit code is lost
  state_->await_signal();
}

EventLoop::~EventLoop() = default;

bool EventLoop::wait_until(const std::function<bool()>& done, Deadline deadline) {
  state_->throw_if_interrupted();
  while (!done()) {
    if (state_->context.run_one_until(deadline) == 0) {
      return done();
    }
    state_->throw_if_interrupted();
  }
  return true;
}

void EventLoop::poll() {
  state_->context.poll();
  state_->throw_if_interrupted();
}

void EventLoop::sleep(std::chrono::steady_clock::duration duration) {
  wait_until([] { return false; }, after(duration));
}

asio::io_context& EventLoop::context() {
  return state_->context;
}

EventLoop::Shield::Shield(EventLoop& loop) : loop_(loop) {
  ++loop_.state_->shields;
}
EventLoop::Shield::~Shield() {
  --loop_.state_->shields;
}

}  // namespace qmpbackup
