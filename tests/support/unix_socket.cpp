#include "support/unix_socket.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

namespace qmpbackup::test {

namespace {

constexpr std::size_t max_descriptors = 16;
using ControlBuffer = std::array<char, CMSG_SPACE(max_descriptors * sizeof(int))>;

UniqueFd new_socket() {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const timeval patience{.tv_sec = 10, .tv_usec = 0};
  if (!socket || ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) != 0) {
    throw_errno("socket");
  }
  return socket;
}

sockaddr_un address_of(const std::filesystem::path& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.native().size() >= sizeof address.sun_path) {
    throw std::system_error(ENAMETOOLONG, std::generic_category(), path);
  }
  std::memcpy(address.sun_path, path.c_str(), path.native().size());
  return address;
}

// The kernel's interfaces take sockaddr for every family.
const sockaddr* generic(const sockaddr_un& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

void attach(msghdr& header, ControlBuffer& control, const std::vector<int>& descriptors) {
  const auto bytes = descriptors.size() * sizeof(int);
  header.msg_control = control.data();
  header.msg_controllen = CMSG_SPACE(bytes);
  cmsghdr* part = CMSG_FIRSTHDR(&header);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(bytes);
  std::memcpy(CMSG_DATA(part), descriptors.data(), bytes);
}

std::vector<UniqueFd> detach(const msghdr& header) {
  std::vector<UniqueFd> descriptors;
  const cmsghdr* part = CMSG_FIRSTHDR(&header);
  if (part != nullptr && part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS) {
    std::vector<int> raw((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    std::memcpy(raw.data(), CMSG_DATA(part), raw.size() * sizeof(int));
    std::ranges::for_each(raw, [&](int fd) { descriptors.emplace_back(fd); });
  }
  return descriptors;
}

}  // namespace

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = other.release();
  }
  return *this;
}

int UniqueFd::release() {
  return std::exchange(fd_, -1);
}

void UniqueFd::reset() {
  if (fd_ >= 0) {
    ::close(release());
  }
}

void throw_errno(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

UniqueFd listen_unix(const std::filesystem::path& path) {
  auto socket = new_socket();
  const auto address = address_of(path);
  if (::bind(socket.get(), generic(address), sizeof address) != 0 || ::listen(socket.get(), 8) != 0) {
    throw_errno("listen on " + path.string());
  }
  return socket;
}

UniqueFd connect_unix(const std::filesystem::path& path) {
  auto socket = new_socket();
  const auto address = address_of(path);
  if (::connect(socket.get(), generic(address), sizeof address) != 0) {
    throw_errno("connect to " + path.string());
  }
  return socket;
}

bool send_with_descriptors(int socket, const std::string& bytes, const std::vector<int>& descriptors) {
  alignas(cmsghdr) ControlBuffer control{};
  std::size_t done = 0;
  while (done < bytes.size()) {
    std::string_view rest = std::string_view(bytes).substr(done);
    iovec part{.iov_base = const_cast<char*>(rest.data()), .iov_len = rest.size()};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (done == 0 && !descriptors.empty()) {
      attach(header, control, descriptors);
    }
    const auto count = ::sendmsg(socket, &header, MSG_NOSIGNAL);
    if (count < 0 && errno != EINTR) {
      return false;
    }
    done += count > 0 ? static_cast<std::size_t>(count) : 0;
  }
  return true;
}

Chunk receive_with_descriptors(int socket) {
  alignas(cmsghdr) ControlBuffer control{};
  std::array<char, 65536> buffer;
  iovec part{.iov_base = buffer.data(), .iov_len = buffer.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  ssize_t count = 0;
  do {
    count = ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  } while (count < 0 && errno == EINTR);
  if (count <= 0) {
    return {};  // the other side closed, or was killed
  }
  return {.bytes = std::string(buffer.data(), static_cast<std::size_t>(count)), .descriptors = detach(header)};
}

std::vector<int> WireMessage::raw_descriptors() const {
  std::vector<int> raw;
  std::ranges::transform(descriptors, std::back_inserter(raw), &UniqueFd::get);
  return raw;
}

void MessageSplitter::add(Chunk chunk) {
  for (std::size_t begin = 0; begin < chunk.bytes.size();) {
    const auto newline = chunk.bytes.find('\n', begin);
    const auto end = newline == std::string::npos ? chunk.bytes.size() : newline + 1;
    if (messages_.empty() || messages_.back().line.ends_with('\n')) {
      messages_.emplace_back();
    }
    messages_.back().line += chunk.bytes.substr(begin, end - begin);
    begin = end;
  }
  if (!messages_.empty()) {
    std::ranges::move(chunk.descriptors, std::back_inserter(messages_.back().descriptors));
  }
}

std::optional<WireMessage> MessageSplitter::next() {
  if (messages_.empty() || !messages_.front().line.ends_with('\n')) {
    return std::nullopt;
  }
  auto message = std::move(messages_.front());
  messages_.pop_front();
  return message;
}

bool wait_readable(int fd, std::chrono::steady_clock::time_point deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd entry{.fd = fd, .events = POLLIN, .revents = 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(std::max<std::int64_t>(left.count(), 0)));
    if (ready >= 0 || errno != EINTR) {
      return ready > 0;
    }
  }
}

}  // namespace qmpbackup::test
