// UNIX sockets that carry lines with descriptors attached, for the QMP client and the proxy.
#pragma once

#include <chrono>
#include <deque>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace qmpbackup::test {

// Owns a descriptor; -1 is none.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  ~UniqueFd() { reset(); }
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release();
  void reset();

 private:
  int fd_ = -1;
};

// The current errno as an exception.
[[noreturn]] void throw_errno(const std::string& what);

// Each throws std::system_error, also for a path beyond the 107 bytes that a UNIX socket address can hold.
UniqueFd listen_unix(const std::filesystem::path& path);
UniqueFd connect_unix(const std::filesystem::path& path);

// Sends all bytes, the descriptors with the first of them. False when the other side is gone or does not read for 10 s.
bool send_with_descriptors(int socket, const std::string& bytes, const std::vector<int>& descriptors);

// What one read returned.
struct Chunk {
  std::string bytes;  // empty: the other side closed
  std::vector<UniqueFd> descriptors;
};
Chunk receive_with_descriptors(int socket);

// A line, newline included, and the descriptors that came with it.
struct WireMessage {
  std::string line;
  std::vector<UniqueFd> descriptors;
  std::vector<int> raw_descriptors() const;
};

// Cuts what arrives into lines. Descriptors go to the last line that begins in their chunk: the kernel ends a read
// after the bytes that carried descriptors.
class MessageSplitter {
 public:
  void add(Chunk chunk);
  std::optional<WireMessage> next();

 private:
  std::deque<WireMessage> messages_;  // all complete but the last
};

// True when `fd` has something to read (or is closed) before the deadline.
bool wait_readable(int fd, std::chrono::steady_clock::time_point deadline);

}  // namespace qmpbackup::test
