#include "qmpbackup/qmp_client.hpp"

#include <asio.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <deque>

#include "qmpbackup/clock.hpp"
#include "qmpbackup/errors.hpp"
#include "qmpbackup/sizes.hpp"

namespace qmpbackup {
namespace {

constexpr std::size_t kLongestLine = 64 * kMiB;  // query-qmp-schema is 0.25 MB; a peer without an end is no QEMU
constexpr std::size_t kMostEvents = 10'000;      // events nobody looks at: the oldest go
constexpr std::size_t kMostDescriptors = 8;

using Socket = asio::generic::stream_protocol::socket;

std::vector<Socket::endpoint_type> endpoints_of(const QmpAddress& address, asio::io_context& context) {
  if (!address.is_tcp) {
    return {asio::local::stream_protocol::endpoint(address.path)};
  }
  std::vector<Socket::endpoint_type> endpoints;
  asio::ip::tcp::resolver resolver(context);
  for (const auto& entry : resolver.resolve(address.host, address.port)) {
    endpoints.emplace_back(entry.endpoint());
  }
  return endpoints;
}

std::string hint_for(int error) {
  switch (error) {
    case ENOENT:
      return "does the VM run, with -qmp unix:PATH,server=on,wait=off? Over TCP: tcp:HOST:PORT";
    case ECONNREFUSED:
      return "nothing listens there: QEMU has ended, or uses another socket";
    case EACCES:
      return "run as a user that may use the socket";
    default:
      return "check -socket";
  }
}

}  // namespace

/// Shared with the handler of the read under way, which may run after the client is gone.
struct QmpClient::Connection : std::enable_shared_from_this<Connection> {
  Connection(EventLoop& event_loop, QmpAddress where, Timeouts limits, Trace tracer)
      : loop(event_loop),
        address(std::move(where)),
        timeouts(limits),
        trace(std::move(tracer)),
        socket(loop.context()) {}

  void connect();
  void handshake();
  ConnectError busy(std::string_view symptom) const;
  void read();
  void take_lines();
  void send(std::string_view text, const std::vector<int>& descriptors);
  void throw_if_broken() const;
  QmpMessage take_message();
  nlohmann::json await_reply(const std::string& id, const std::string& command);

  EventLoop& loop;
  QmpAddress address;
  Timeouts timeouts;
  Trace trace;
  Socket socket;
  std::array<char, 64 * kKiB> block{};
  std::string input;        // what came and is no whole line yet
  std::size_t scanned = 0;  // so much of it holds no newline
  std::deque<std::string> lines;
  std::deque<QmpEvent> events;
  std::optional<std::string> broken;  // why the connection is of no use any more
  std::string version;
  bool shutdown_announced = false;
  // A reply to a client that was killed can reach the next one. Ids start somewhere else each time, so that it is told
  // apart.
  int next_id = random_number();
};

void QmpClient::Connection::connect() {
  std::vector<Socket::endpoint_type> endpoints;
  try {
    endpoints = endpoints_of(address, loop.context());
  } catch (const std::system_error& error) {
    throw ConnectError(fmt::format("cannot reach QEMU at {}: {}", address.text(), error.code().message()),
                       "check -socket");
  }
  asio::error_code last_error = asio::error::host_not_found;
  const Deadline deadline = after(timeouts.connect);
  for (const auto& endpoint : endpoints) {
    socket = Socket(loop.context());
    socket.open(endpoint.protocol(), last_error);
    if (last_error) {
      continue;
    }
    ::fcntl(socket.native_handle(), F_SETFD, FD_CLOEXEC);  // a child that hangs must not keep the monitor busy
    const auto outcome = std::make_shared<std::optional<asio::error_code>>();
    socket.async_connect(endpoint, [outcome](const asio::error_code& error) { *outcome = error; });
    if (!loop.wait_until([&] { return outcome->has_value(); }, deadline)) {
      throw ConnectError(fmt::format("cannot reach QEMU at {}: no connection in time", address.text()),
                         "check -socket");
    }
    last_error = **outcome;
    if (!last_error) {
      return;
    }
  }
  if (last_error == asio::error::no_buffer_space || last_error.value() == EAGAIN) {
    throw busy("takes no connection");  // so many wait already (asio calls EAGAIN so)
  }
  const std::string message = fmt::format("cannot reach QEMU at {}: {}", address.text(), last_error.message());
  if (last_error == asio::error::connection_refused || last_error.value() == ENOENT) {
    throw NobodyListens(message, hint_for(last_error.value()));
  }
  throw ConnectError(message, hint_for(last_error.value()));
}

ConnectError QmpClient::Connection::busy(std::string_view symptom) const {
  return ConnectError(
      fmt::format("QEMU at {} {}: another client holds this monitor, or QEMU hangs", address.text(), symptom),
      "wait if that is another backup of this VM, end that client, or give QEMU a second -qmp socket for backups");
}

void QmpClient::Connection::handshake() {
  read();
  const Deadline deadline = after(timeouts.connect);
  for (;;) {
    if (!loop.wait_until([&] { return !lines.empty() || broken; }, deadline)) {
      throw busy("sends no greeting");
    }
    if (lines.empty()) {
      throw ConnectError(fmt::format("QEMU at {} closed the connection before its greeting", address.text()),
                         "check that -socket names a QMP monitor, and that QEMU runs");
    }
    const QmpMessage message = take_message();
    if (const auto* greeting = std::get_if<QmpGreeting>(&message)) {
      version = greeting->version;
      return;
    }
    // Anything else was meant for the client before this one.
  }
}

void QmpClient::Connection::read() {
  socket.async_read_some(asio::buffer(block),
                         [self = shared_from_this()](const asio::error_code& error, std::size_t n) {
                           if (error) {
                             self->broken = error == asio::error::eof ? "QEMU closed the connection" : error.message();
                             return;
                           }
                           self->input.append(self->block.data(), n);
                           self->take_lines();
                           if (!self->broken) {
                             self->read();
                           }
                         });
}

void QmpClient::Connection::take_lines() {
  std::size_t begin = 0;
  for (std::size_t end = input.find('\n', scanned); end != std::string::npos; end = input.find('\n', begin)) {
    std::string line = input.substr(begin, end - begin);
    if (line.ends_with('\r')) {
      line.pop_back();
    }
    begin = end + 1;
    if (!line.empty()) {
      trace("<-", line);
      lines.push_back(std::move(line));
      if (lines.size() > kMostEvents) {  // nobody waits for a reply now
        lines.pop_front();
      }
    }
  }
  input.erase(0, begin);
  scanned = input.size();
  if (input.size() > kLongestLine) {
    broken = fmt::format("a line of more than {} came", format_size(kLongestLine));
  }
}

void QmpClient::Connection::throw_if_broken() const {
  if (broken) {
    throw ConnectionLost(fmt::format("the connection to QEMU at {} broke: {}", address.text(), *broken),
                         "see whether QEMU still runs; the next run cleans up what this one left there");
  }
}

/// The oldest line, which must be there.
QmpMessage QmpClient::Connection::take_message() {
  QmpMessage message = parse_qmp_message(lines.front());
  lines.pop_front();
  const auto* event = std::get_if<QmpEvent>(&message);
  shutdown_announced = shutdown_announced || (event != nullptr && event->name == "SHUTDOWN");
  return message;
}

void QmpClient::Connection::send(std::string_view text, const std::vector<int>& descriptors) {
  const Deadline deadline = after(timeouts.reply);
  bool with_descriptors = !descriptors.empty();
  while (!text.empty()) {
    iovec part{const_cast<char*>(text.data()), text.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMostDescriptors)> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (with_descriptors) {
      message.msg_control = control.data();
      message.msg_controllen = CMSG_SPACE(sizeof(int) * descriptors.size());
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof(int) * descriptors.size());
      std::memcpy(CMSG_DATA(header), descriptors.data(), sizeof(int) * descriptors.size());
    }
    const ssize_t sent = ::sendmsg(socket.native_handle(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      with_descriptors = false;
      text.remove_prefix(static_cast<std::size_t>(sent));
      continue;
    }
    if (errno == EINTR) {
      continue;
    }
    if (errno != EAGAIN) {
      broken = std::strerror(errno);
      throw_if_broken();
    }
    // A wait that ends early leaves a command cut off in the middle: nothing can follow it.
    broken = "QEMU takes no more commands";
    const auto ready = std::make_shared<bool>(false);
    socket.async_wait(Socket::wait_write, [ready](const asio::error_code&) { *ready = true; });
    if (!loop.wait_until([&] { return *ready; }, deadline)) {
      throw_if_broken();
    }
    broken.reset();
  }
}

nlohmann::json QmpClient::Connection::await_reply(const std::string& id, const std::string& command) {
  const Deadline deadline = after(timeouts.reply);
  for (;;) {
    if (!loop.wait_until([&] { return !lines.empty() || broken; }, deadline)) {
      throw ConnectionLost(fmt::format("QEMU at {} does not answer {}", address.text(), command),
                           "see whether QEMU hangs; the next run cleans up what this one left there");
    }
    if (lines.empty()) {
      throw_if_broken();
    }
    QmpMessage message = take_message();
    if (auto* event = std::get_if<QmpEvent>(&message)) {
      events.push_back(std::move(*event));
      if (events.size() > kMostEvents) {
        events.pop_front();
      }
    } else if (auto* reply = std::get_if<QmpReply>(&message); reply && reply->id == id) {
      return std::move(reply->value);
    } else if (const auto* error = std::get_if<QmpErrorReply>(&message);
               error && (error->id == id || error->id.empty())) {
      throw QmpError(command, error->description);
    }
    // Else the late answer to a command that was given up, or to another client.
  }
}

std::string QmpAddress::text() const {
  const bool is_ipv6 = host.find(':') != std::string::npos;
  return is_tcp ? fmt::format("tcp:{}:{}", is_ipv6 ? "[" + host + "]" : host, port) : path;
}

QmpAddress parse_qmp_address(const std::string& text) {
  constexpr std::string_view kTcp = "tcp:";
  constexpr std::string_view kUnix = "unix:";
  QmpAddress address;
  if (text.starts_with(kTcp)) {
    const auto colon = text.rfind(':');
    address.is_tcp = true;
    address.host = colon > kTcp.size() ? text.substr(kTcp.size(), colon - kTcp.size()) : "";
    address.port = text.substr(colon + 1);
    if (address.host.starts_with('[') && address.host.ends_with(']')) {
      address.host = address.host.substr(1, address.host.size() - 2);
    }
    if (address.host.empty() || address.port.empty()) {
      throw UsageError(fmt::format("-socket '{}' is no address", text), "write tcp:HOST:PORT");
    }
    int port = 0;
    const char* end = address.port.data() + address.port.size();
    if (const auto read = std::from_chars(address.port.data(), end, port);
        read.ec != std::errc{} || read.ptr != end || port < 1 || port > 65535) {
      throw UsageError(fmt::format("-socket '{}' names no port", text), "a port is a number from 1 to 65535");
    }
    return address;
  }
  address.path = text.starts_with(kUnix) ? text.substr(kUnix.size()) : text;
  if (address.path.empty()) {
    throw UsageError("-socket is empty", "give the path of QEMU's QMP socket, or tcp:HOST:PORT");
  }
  if (address.path.size() >= sizeof(sockaddr_un::sun_path) || address.path.find('\0') != std::string::npos) {
    throw UsageError(fmt::format("-socket has {} bytes; a UNIX socket's path has at most {}", address.path.size(),
                                 sizeof(sockaddr_un::sun_path) - 1),
                     "use a shorter path, for example by a link");
  }
  return address;
}

QmpClient::QmpClient(EventLoop& loop, const QmpAddress& address, Timeouts timeouts, Trace trace)
    : connection_(std::make_shared<Connection>(loop, address, timeouts, std::move(trace))) {
  connection_->connect();
  connection_->handshake();
  execute({"qmp_capabilities"});
}

QmpClient::~QmpClient() {
  close();
}

void QmpClient::close() {
  asio::error_code ignored;
  connection_->socket.close(ignored);
  connection_->broken = connection_->broken.value_or("it was closed");
}

nlohmann::json QmpClient::execute(const QmpCommand& command, const std::vector<int>& descriptors) {
  connection_->throw_if_broken();
  nlohmann::json message = to_json(command);
  const std::string id = fmt::format("qmpbackup-{}", connection_->next_id++);
  message["id"] = id;
  std::string line = message.dump();
  connection_->trace("->", line);
  line += '\n';
  connection_->send(line, descriptors);
  return connection_->await_reply(id, command.name);
}

std::optional<QmpEvent> QmpClient::next_event(Deadline deadline) {
  Connection& connection = *connection_;
  for (;;) {
    if (!connection.events.empty()) {
      QmpEvent event = std::move(connection.events.front());
      connection.events.pop_front();
      return event;
    }
    if (!connection.loop.wait_until([&] { return !connection.lines.empty() || connection.broken; }, deadline)) {
      return std::nullopt;
    }
    if (connection.lines.empty()) {
      connection.throw_if_broken();
    }
    QmpMessage message = connection.take_message();
    if (auto* event = std::get_if<QmpEvent>(&message)) {
      return std::move(*event);
    }
  }
}

void QmpClient::throw_if_qemu_ends() {
  const Deadline deadline = after(connection_->timeouts.connect);
  while (connection_->shutdown_announced && next_event(deadline)) {
  }
}

const std::string& QmpClient::qemu_version() const {
  return connection_->version;
}

}  // namespace qmpbackup
