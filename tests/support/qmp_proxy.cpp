#include "support/qmp_proxy.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <system_error>

namespace qmpbackup::test {

namespace {

using json = nlohmann::json;

constexpr int greeting_index = -1;
constexpr auto idle_patience = std::chrono::seconds(60);

// What a hook that is not set says.
template <typename Hook, typename... Arguments>
Verdict ask(const Hook& hook, Arguments&&... arguments) {
  return hook ? hook(std::forward<Arguments>(arguments)...) : Verdict::Forward;
}

bool closes(Verdict verdict) {
  return verdict == Verdict::CloseClient || verdict == Verdict::CloseBoth;
}

// A message that is not JSON is passed on, for QEMU to complain about.
json parse(const std::string& line) {
  return json::parse(line, nullptr, false);
}

}  // namespace

QmpProxy::QmpProxy(std::filesystem::path listen_path, std::filesystem::path upstream_path)
    : listen_path_(std::move(listen_path)),
      upstream_path_(std::move(upstream_path)),
      listener_(listen_unix(listen_path_)),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      thread_(&QmpProxy::run, this) {}

QmpProxy::~QmpProxy() {
  stopping_ = true;
  wake();
  thread_.join();
  std::error_code ignored;
  std::filesystem::remove(listen_path_, ignored);
}

template <typename Change>
void QmpProxy::change(const Change& apply) {
  const std::lock_guard lock(mutex_);
  apply();
}

void QmpProxy::on_client_message(ClientHook hook) {
  change([&] { hooks_.on_client_message = std::move(hook); });
}
void QmpProxy::after_forward(ClientHook hook) {
  change([&] { hooks_.after_forward = std::move(hook); });
}
void QmpProxy::on_reply(ReplyHook hook) {
  change([&] { hooks_.on_reply = std::move(hook); });
}
void QmpProxy::after_reply(ReplyHook hook) {
  change([&] { hooks_.after_reply = std::move(hook); });
}
void QmpProxy::on_event(EventHook hook) {
  change([&] { hooks_.on_event = std::move(hook); });
}
void QmpProxy::set_reply_delay(std::chrono::milliseconds delay) {
  change([&] { hooks_.reply_delay = delay; });
}
void QmpProxy::set_split(bool split) {
  change([&] { hooks_.split = split; });
}
void QmpProxy::clear() {
  change([&] { hooks_ = {}; });
}

void QmpProxy::wait_until_idle() {
  const auto deadline = std::chrono::steady_clock::now() + idle_patience;
  for (bool idle = false; !idle;) {
    if (std::chrono::steady_clock::now() > deadline) {
      throw std::runtime_error("the proxy still serves a client");
    }
    // A client that connected and ended already may still wait to be accepted.
    const bool nobody_waits = !wait_readable(listener_.get(), std::chrono::steady_clock::now());
    change([&] { idle = nobody_waits && !serving_; });
    if (!idle) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
}

void QmpProxy::arm() {
  change([&] { commands_.clear(); });
}

int QmpProxy::messages() const {
  return static_cast<int>(commands().size());
}

std::vector<std::string> QmpProxy::commands() const {
  const std::lock_guard lock(mutex_);
  return commands_;
}

std::string QmpProxy::hook_error() const {
  const std::lock_guard lock(mutex_);
  return hook_error_;
}

void QmpProxy::send_to_client(const json& message) {
  change([&] { forged_.push_back(message.dump() + "\r\n"); });
  wake();
}

QmpProxy::Hooks QmpProxy::hooks() const {
  const std::lock_guard lock(mutex_);
  return hooks_;
}

void QmpProxy::wake() const {
  ::eventfd_write(wake_.get(), 1);
}

void QmpProxy::run() {
  while (!stopping_) {
    std::array<pollfd, 2> entries = {pollfd{.fd = listener_.get(), .events = POLLIN, .revents = 0},
                                     pollfd{.fd = wake_.get(), .events = POLLIN, .revents = 0}};
    ::poll(entries.data(), entries.size(), -1);
    if (entries[1].revents != 0) {
      take_forged();  // for nobody
    }
    if (entries[0].revents == 0) {
      continue;
    }
    change([&] { serving_ = true; });  // before accept: see wait_until_idle
    accept_one();
    change([&] { serving_ = false; });
  }
}

void QmpProxy::accept_one() {
  Session session;
  session.client = UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  try {
    session.upstream = connect_unix(upstream_path_);
  } catch (const std::system_error&) {
    return;  // QEMU is gone
  }
  try {
    serve(session);
  } catch (const std::exception& error) {
    change([&] { hook_error_ = error.what(); });
  }
}

void QmpProxy::serve(Session& session) {
  while (!stopping_) {
    // QEMU's side first: what it said before it died still goes to the tool.
    std::array<pollfd, 3> entries = {pollfd{.fd = session.upstream.get(), .events = POLLIN, .revents = 0},
                                     pollfd{.fd = session.client.get(), .events = POLLIN, .revents = 0},
                                     pollfd{.fd = wake_.get(), .events = POLLIN, .revents = 0}};
    ::poll(entries.data(), entries.size(), -1);
    if (entries[2].revents != 0 && !send_forged(session)) {
      return;
    }
    if (entries[0].revents != 0 && !pump_upstream(session)) {
      return;
    }
    if (entries[1].revents != 0 && !pump_client(session)) {
      return;
    }
  }
}

bool QmpProxy::pump_client(Session& session) {
  auto chunk = receive_with_descriptors(session.client.get());
  const bool open = !chunk.bytes.empty();
  session.from_client.add(std::move(chunk));
  while (const auto message = session.from_client.next()) {
    if (!handle_client_message(session, *message)) {
      return false;
    }
  }
  return open;
}

bool QmpProxy::pump_upstream(Session& session) {
  auto chunk = receive_with_descriptors(session.upstream.get());
  const bool open = !chunk.bytes.empty();
  session.from_upstream.add(std::move(chunk));
  while (const auto message = session.from_upstream.next()) {
    if (!handle_upstream_message(session, *message)) {
      return false;
    }
  }
  return open;
}

bool QmpProxy::handle_client_message(Session& session, const WireMessage& message) {
  const auto content = parse(message.line);
  int index = 0;
  change([&] {
    index = static_cast<int>(commands_.size());
    commands_.push_back(content.is_object() ? content.value("execute", "") : "");
  });
  const auto current = hooks();
  const auto verdict = ask(current.on_client_message, index, content);
  if (verdict != Verdict::Forward) {
    return go_on(session, verdict);
  }
  if (!send_with_descriptors(session.upstream.get(), message.line, message.raw_descriptors())) {
    return true;  // QEMU has gone: its last words and its end are read next
  }
  session.awaiting_reply.push_back(index);
  return go_on(session, ask(current.after_forward, index, content));
}

bool QmpProxy::handle_upstream_message(Session& session, const WireMessage& message) {
  auto content = parse(message.line);
  const auto current = hooks();
  const auto original = content;
  const auto forward = [&] {
    const auto line = content == original ? message.line : content.dump() + "\r\n";
    return send_forged(session) && send_line(session, current, line, message.raw_descriptors());
  };
  if (content.is_object() && content.contains("event")) {
    const auto verdict = ask(current.on_event, content);
    return verdict == Verdict::Forward ? forward() : go_on(session, verdict);
  }
  int index = greeting_index;
  if (session.greeted && !session.awaiting_reply.empty()) {
    index = session.awaiting_reply.front();
    session.awaiting_reply.pop_front();
  }
  session.greeted = true;
  const auto verdict = ask(current.on_reply, index, content);
  if (verdict != Verdict::Forward) {
    return go_on(session, verdict);
  }
  return forward() && go_on(session, ask(current.after_reply, index, content));
}

bool QmpProxy::go_on(Session& session, Verdict verdict) {
  if (verdict == Verdict::CloseBoth) {
    session.upstream.reset();
  }
  return !closes(verdict);
}

bool QmpProxy::send_line(Session& session, const Hooks& current, const std::string& line,
                         const std::vector<int>& descriptors) {
  std::this_thread::sleep_for(current.reply_delay);
  if (!current.split) {
    return send_with_descriptors(session.client.get(), line, descriptors);
  }
  // At most some dozens of pieces for a long line.
  std::uniform_int_distribution<std::size_t> piece_length(1, std::max<std::size_t>(8, line.size() / 32));
  for (std::size_t done = 0; done < line.size();) {
    const auto piece = line.substr(done, piece_length(random_));
    if (!send_with_descriptors(session.client.get(), piece, done == 0 ? descriptors : std::vector<int>())) {
      return false;
    }
    done += piece.size();
    std::this_thread::sleep_for(std::chrono::microseconds(100));  // lets the tool read it by itself
  }
  return true;
}

std::deque<std::string> QmpProxy::take_forged() {
  eventfd_t ignored = 0;
  ::eventfd_read(wake_.get(), &ignored);
  std::deque<std::string> lines;
  change([&] { lines.swap(forged_); });
  return lines;
}

bool QmpProxy::send_forged(Session& session) {
  const auto current = hooks();
  for (const auto& line : take_forged()) {
    if (!send_line(session, current, line, {})) {
      return false;
    }
  }
  return true;
}

}  // namespace qmpbackup::test
