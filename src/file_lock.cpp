#include "qmpbackup/file_lock.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "qmpbackup/errors.hpp"

namespace qmpbackup {

namespace {

constexpr int kFlags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;

/// Whether the path still names the open file: another run may have removed it between its opening and its locking.
bool is_still_named(const UniqueFd& fd, const std::string& path) {
  struct stat opened {};
  struct stat named {};
  if (::fstat(fd.get(), &opened) != 0 || ::lstat(path.c_str(), &named) != 0) {
    if (errno != ENOENT && errno != ESTALE) {
      throw_errno("look at", path);
    }
    return false;
  }
  return opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
}

}  // namespace

FileLock::FileLock(const std::string& path) : path_(path) {
  constexpr int kRounds = 10;  // more than other runs need; some file systems number a file anew at each look
  for (int round = 0; round < kRounds && !keeps_its_name_; ++round) {
    fd_ = UniqueFd(::open(path.c_str(), kFlags | O_CREAT | O_EXCL, 0600));
    made_ = fd_.is_open();
    if (!made_) {
      fd_ = UniqueFd(::open(path.c_str(), kFlags | O_CREAT, 0600));
    }
    if (!fd_.is_open()) {
      const int error = errno;
      const char* hint = error == EISDIR || error == ELOOP || error == ENXIO ? "it is no file: move it away"
                         : error == EACCES && ::access(path.c_str(), F_OK) == 0
                             ? "check its owner and mode, or run as the user whose backups these are"
                             : "check its folder: owner, mode, mount, free space";
      throw FileError(fmt::format("cannot open the lock {}: {}", path, std::strerror(error)), hint);
    }
    while (::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) {
        throw ChainBusy(fmt::format("another run holds {}", path), "wait until it has ended");
      }
      if (errno != EINTR) {
        throw_errno("lock", path);
      }
    }
    keeps_its_name_ = is_still_named(fd_, path);
  }
}

FileLock::~FileLock() {
  try {
    struct stat info {};
    if (made_ && fd_.is_open() && ::fstat(fd_.get(), &info) == 0 && info.st_size == 0 && is_still_named(fd_, path_)) {
      ::unlink(path_.c_str());
    }
  } catch (const Error&) {  // an empty lock does no harm
  }
}

void FileLock::require_held() const {
  if (keeps_its_name_ && !is_still_named(fd_, path_)) {
    throw ChainBusy(fmt::format("{} was removed or replaced while this run held it", path_),
                    "another run may work on this chain: try again when it has ended");
  }
}

LockNote read_lock_note(const std::string& path) {
  try {
    return parse_lock_note(read_file_if_there(path, kKiB).value_or(""));
  } catch (const FileError&) {
    return {};
  }
}

void write_lock_note(const std::string& path, const LockNote& note) {
  const std::string text = format_lock_note(note);
  try {
    if (read_file_if_there(path, kKiB) == text) {
      return;
    }
    const UniqueFd fd = open_file(path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK);
    if (::pwrite(fd.get(), text.data(), text.size(), 0) < 0 ||
        ::ftruncate(fd.get(), static_cast<off_t>(text.size())) != 0 || ::fsync(fd.get()) != 0) {
      throw_errno("write into the lock", path);
    }
  } catch (const Error&) {  // only a run that finds no manifest would have read it
  }
}

}  // namespace qmpbackup
