#include "qmpbackup/file_lock.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "qmpbackup/errors.hpp"

namespace qmpbackup {

FileLock::FileLock(const std::string& path)
    : fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600)) {
  if (!fd_.is_open()) {
    throw_errno("open the lock", path);
  }
  while (::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) {
      throw ChainBusy(fmt::format("another run holds {}", path), "wait until it has ended");
    }
    if (errno != EINTR) {
      throw_errno("lock", path);
    }
  }
}

void write_note_into_lock(const std::string& path, std::string_view note) {
  try {
    if (read_file_if_there(path, kKiB) == note) {
      return;
    }
    const UniqueFd fd = open_file(path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_TRUNC);
    if (::write(fd.get(), note.data(), note.size()) < 0 || ::fsync(fd.get()) != 0) {
      throw_errno("write into the lock", path);
    }
  } catch (const FileError&) {  // only a chain that loses its manifest would have read it
  }
}

}  // namespace qmpbackup
