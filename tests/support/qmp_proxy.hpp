// Stands between the tool and QEMU's monitor and does harm at a chosen message.
#pragma once

#include <nlohmann/json.hpp>

#include <atomic>
#include <chrono>
#include <deque>
#include <filesystem>
#include <functional>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "support/unix_socket.hpp"

namespace qmpbackup::test {

// What happens to the message at hand.
enum class Verdict {
  Forward,
  Drop,         // it never arrives; the connection stays
  CloseClient,  // it never arrives; the tool sees its connection end (and QEMU, afterwards, its own)
  CloseBoth,    // the same, QEMU's side first
};

// Forwards lines and SCM_RIGHTS descriptors both ways, on a thread of its own. One client at a time, any number one
// after the other; each gets a new connection to QEMU, and is closed at once when QEMU cannot be reached.
//
// Client messages count from 0 (qmp_capabilities), on through reconnections, until arm() begins again.
// The hooks run on the proxy's thread, and nothing is forwarded while one runs. They may kill processes, use a VM (that
// the test leaves alone meanwhile) and call send_to_client(); to start a long-lived process is for the test's own
// thread. A hook that was replaced may still run once for the message at hand. An exception in a hook closes both
// sides and is kept for hook_error().
class QmpProxy {
 public:
  using json = nlohmann::json;
  using ClientHook = std::function<Verdict(int index, const json& message)>;
  using ReplyHook = std::function<Verdict(int index, json& reply)>;
  using EventHook = std::function<Verdict(json& event)>;

  // Listens from here on.
  QmpProxy(std::filesystem::path listen_path, std::filesystem::path upstream_path);
  ~QmpProxy();
  QmpProxy(const QmpProxy&) = delete;
  QmpProxy& operator=(const QmpProxy&) = delete;

  const std::filesystem::path& path() const { return listen_path_; }

  // Before a message goes to QEMU.
  void on_client_message(ClientHook hook);
  // After it went, before its reply can reach the tool. (QEMU may still be working on it.) Drop means Forward here.
  void after_forward(ClientHook hook);
  // QEMU has answered and the tool does not know yet. May edit the reply. The greeting has index -1.
  void on_reply(ReplyHook hook);
  // After the reply went to the tool. Drop means Forward here.
  void after_reply(ReplyHook hook);
  // The same as on_reply for events.
  void on_event(EventHook hook);
  // Removes all hooks, the delay and the splitting.
  void clear();

  // Waits until no tool is connected and no hook runs any more: a hook may outlive the tool that caused it. Call it
  // after the tool has ended, before looking at what the hooks did. Not from a hook. Throws after 60 s.
  void wait_until_idle();

  // Starts counting at 0 again.
  void arm();
  // Client messages since then, and their commands in order.
  int messages() const;
  std::vector<std::string> commands() const;
  // What a hook threw; empty if none did. Check it at the end of a test.
  std::string hook_error() const;

  // Sends a forged message. From a hook other than after_reply it arrives before the reply at hand. Nothing happens
  // without a client.
  void send_to_client(const json& message);
  // Waits before each line that goes to the tool.
  void set_reply_delay(std::chrono::milliseconds delay);
  // Sends each line to the tool in small pieces of random size.
  void set_split(bool split);

 private:
  struct Hooks {
    ClientHook on_client_message, after_forward;
    ReplyHook on_reply, after_reply;
    EventHook on_event;
    std::chrono::milliseconds reply_delay{0};
    bool split = false;
  };
  // One client and its connection to QEMU.
  struct Session {
    UniqueFd client, upstream;
    MessageSplitter from_client, from_upstream;
    std::deque<int> awaiting_reply;  // QEMU answers in order
    bool greeted = false;
  };

  void run();
  void accept_one();
  void serve(Session& session);
  // These return false when the session is over.
  bool pump_client(Session& session);
  bool pump_upstream(Session& session);
  bool handle_client_message(Session& session, const WireMessage& message);
  bool handle_upstream_message(Session& session, const WireMessage& message);
  bool send_line(Session& session, const Hooks& current, const std::string& line, const std::vector<int>& descriptors);
  bool send_forged(Session& session);
  static bool go_on(Session& session, Verdict verdict);

  Hooks hooks() const;
  std::deque<std::string> take_forged();
  void wake() const;
  template <typename Change>
  void change(const Change& apply);  // with the mutex held

  const std::filesystem::path listen_path_, upstream_path_;
  mutable std::mutex mutex_;  // guards what follows, down to serving_
  Hooks hooks_;
  std::vector<std::string> commands_;
  std::deque<std::string> forged_;
  std::string hook_error_;
  bool serving_ = false;

  UniqueFd listener_;
  UniqueFd wake_;  // eventfd: something is forged, or it is time to stop
  std::atomic<bool> stopping_{false};
  std::minstd_rand random_;  // the same pieces in every run
  std::thread thread_;
};

}  // namespace qmpbackup::test
