// A small blocking QMP client for the tests, independent of the one under test.
#pragma once

#include <nlohmann/json.hpp>

#include <chrono>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/unix_socket.hpp"

namespace qmpbackup::test {

// QEMU answered with an error.
class QmpTestError : public std::runtime_error {
 public:
  QmpTestError(const std::string& command, const nlohmann::json& error);
  const std::string& error_class() const { return error_class_; }
  const std::string& description() const { return description_; }

 private:
  std::string error_class_;
  std::string description_;
};

// Every wait has a deadline (60 s unless a parameter says otherwise) and throws std::runtime_error when it passes or
// when the connection ends. May be used by several threads.
class QmpTestClient {
 public:
  // Connects, reads the greeting, negotiates capabilities.
  explicit QmpTestClient(const std::filesystem::path& socket_path);

  // The value of "return". Throws QmpTestError. `descriptors` travel with the command (add-fd) and stay the caller's.
  nlohmann::json execute(const std::string& command, const nlohmann::json& arguments = nlohmann::json::object(),
                         const std::vector<int>& descriptors = {});
  // The whole reply, an error too.
  nlohmann::json try_execute(const std::string& command, const nlohmann::json& arguments = nlohmann::json::object(),
                             const std::vector<int>& descriptors = {});
  // Runs a human monitor command and returns its text.
  std::string hmp(const std::string& line);

  // Takes the first event of that name (that `matches`, if given) out of those received, or waits for one.
  nlohmann::json wait_event(const std::string& name, std::chrono::milliseconds timeout = std::chrono::seconds(60),
                            const std::function<bool(const nlohmann::json& event)>& matches = {});
  // The events received so far and not taken; reads what is there without waiting.
  std::vector<nlohmann::json> events();
  // Forgets them.
  void clear_events();

  const nlohmann::json& greeting() const { return greeting_; }

 private:
  using Clock = std::chrono::steady_clock;

  // nullopt when the deadline passes.
  std::optional<nlohmann::json> read_message(Clock::time_point deadline);

  std::mutex mutex_;
  UniqueFd socket_;
  MessageSplitter incoming_;
  nlohmann::json greeting_;
  std::vector<nlohmann::json> events_;
  int last_id_ = 0;
};

}  // namespace qmpbackup::test
