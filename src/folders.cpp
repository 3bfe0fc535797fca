#include "qmpbackup/folders.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>

#include "qmpbackup/files.hpp"

namespace qmpbackup {

std::optional<ByteCount> free_bytes(const std::string& folder) {
  struct statvfs info {};
  if (::statvfs(folder.c_str(), &info) != 0) {
    return std::nullopt;
  }
  return ByteCount{info.f_bavail} * info.f_frsize;
}

bool is_writable_folder(const std::string& folder) {
  return ::access(folder.c_str(), W_OK | X_OK) == 0;
}

bool is_folder(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

bool takes_direct_io(const std::string& folder, const std::string& file) {
  const UniqueFd nameless(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, S_IRUSR | S_IWUSR));
  if (nameless.is_open()) {
    return true;
  }
  if (errno != EOPNOTSUPP && errno != EISDIR) {  // those say: no O_TMPFILE here, which tells nothing about O_DIRECT
    return false;
  }
  return UniqueFd(::open(file.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC)).is_open();
}

}  // namespace qmpbackup
