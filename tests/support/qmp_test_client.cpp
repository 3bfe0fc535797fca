#include "support/qmp_test_client.hpp"

#include <algorithm>

namespace qmpbackup::test {

using nlohmann::json;

namespace {

constexpr auto patience = std::chrono::seconds(60);

}  // namespace

QmpTestError::QmpTestError(const std::string& command, const json& error)
    : std::runtime_error(command + ": " + error.dump()),
      error_class_(error.value("class", "")),
      description_(error.value("desc", "")) {}

QmpTestClient::QmpTestClient(const std::filesystem::path& socket_path) : socket_(connect_unix(socket_path)) {
  auto greeting = read_message(Clock::now() + patience);
  if (!greeting || !greeting->contains("QMP")) {
    throw std::runtime_error("no QMP greeting on " + socket_path.string());
  }
  greeting_ = std::move(*greeting);
  execute("qmp_capabilities");
}

json QmpTestClient::execute(const std::string& command, const json& arguments, const std::vector<int>& descriptors) {
  auto reply = try_execute(command, arguments, descriptors);
  if (reply.contains("error")) {
    throw QmpTestError(command, reply["error"]);
  }
  return reply.at("return");
}

json QmpTestClient::try_execute(const std::string& command, const json& arguments,
                                const std::vector<int>& descriptors) {
  const std::lock_guard lock(mutex_);
  const int id = ++last_id_;
  const json message = {{"execute", command}, {"arguments", arguments}, {"id", id}};
  if (!send_with_descriptors(socket_.get(), message.dump() + "\n", descriptors)) {
    throw std::runtime_error(command + ": QEMU has gone");
  }
  const auto deadline = Clock::now() + patience;
  while (auto reply = read_message(deadline)) {
    if (reply->contains("event")) {
      events_.push_back(std::move(*reply));
    } else if (reply->value("id", 0) == id) {
      return std::move(*reply);
    }
  }
  throw std::runtime_error(command + ": no reply in time");
}

std::string QmpTestClient::hmp(const std::string& line) {
  return execute("human-monitor-command", {{"command-line", line}}).get<std::string>();
}

json QmpTestClient::wait_event(const std::string& name, std::chrono::milliseconds timeout,
                               const std::function<bool(const json& event)>& matches) {
  const std::lock_guard lock(mutex_);
  const auto deadline = Clock::now() + timeout;
  const auto wanted = [&](const json& event) { return event["event"] == name && (!matches || matches(event)); };
  for (;;) {
    if (const auto found = std::ranges::find_if(events_, wanted); found != events_.end()) {
      auto event = std::move(*found);
      events_.erase(found);
      return event;
    }
    auto message = read_message(deadline);
    if (!message) {
      throw std::runtime_error("no event " + name + " in time");
    }
    if (message->contains("event")) {
      events_.push_back(std::move(*message));
    }
  }
}

std::vector<json> QmpTestClient::events() {
  const std::lock_guard lock(mutex_);
  while (auto message = read_message(Clock::now())) {
    if (message->contains("event")) {
      events_.push_back(std::move(*message));
    }
  }
  return events_;
}

void QmpTestClient::clear_events() {
  events();
  const std::lock_guard lock(mutex_);
  events_.clear();
}

std::optional<json> QmpTestClient::read_message(Clock::time_point deadline) {
  for (;;) {
    if (const auto message = incoming_.next()) {
      return json::parse(message->line);
    }
    if (!wait_readable(socket_.get(), deadline)) {
      return std::nullopt;
    }
    auto chunk = receive_with_descriptors(socket_.get());
    if (chunk.bytes.empty()) {
      throw std::runtime_error("QEMU closed the QMP connection");
    }
    incoming_.add(std::move(chunk));
  }
}

}  // namespace qmpbackup::test
