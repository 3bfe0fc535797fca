#include "qmpbackup/files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "qmpbackup/clock.hpp"
#include "qmpbackup/folders.hpp"
#include "qmpbackup/sha256.hpp"

namespace qmpbackup {
namespace {

constexpr mode_t kFileMode = 0600, kFolderMode = 0700;

std::string hint_for(int error) {
  if (error == ENOSPC || error == EDQUOT) {
    return "make room, then try again";
  }
  if (error == EISDIR) {
    return "move away what is in its place";
  }
  return error == EACCES || error == EPERM ? "check owner and mode, or run as the user whose backups they are"
                                           : "check its storage, then try again";
}

[[noreturn]] void throw_errno_between(std::string_view what, const std::string& path, const std::string& to) {
  const int error = errno;
  throw FileError(fmt::format("cannot {} {} to {}: {}", what, path, to, std::strerror(error)), hint_for(error));
}

std::string folder_of(const std::string& path) {
  const auto slash = path.rfind('/');
  if (slash == std::string::npos) {
    return ".";
  }
  return slash == 0 ? "/" : path.substr(0, slash);
}

/// Whether something has this name. Throws FileError where that cannot be told: on storage with an error everything
/// would seem to be gone, and what seems to be gone is moved and removed by other rules.
bool look_at(const std::string& path, struct stat& info) {
  if (::lstat(path.c_str(), &info) == 0) {
    return true;
  }
  if (errno != ENOENT && errno != ENOTDIR) {
    throw_errno("look at", path);
  }
  return false;
}

/// A relative link would lead elsewhere from another folder.
void link_to_same_target(const std::string& from, const std::string& to) {
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::absolute(folder_of(from), error);
  const std::filesystem::path target = folder / std::filesystem::read_symlink(from, error);
  if (!error && !std::filesystem::is_symlink(to, error)) {
    std::filesystem::create_symlink(target, to, error);
  }
  if (error) {
    errno = error.value();
    throw_errno_between("link", from, to);
  }
  sync_folder(folder_of(to));
}

void write_all(int fd, std::string_view content, const std::string& path) {
  while (!content.empty()) {
    const ssize_t written = ::write(fd, content.data(), content.size());
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written < 0) {
      throw_errno("write", path);
    }
    content.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace

void throw_errno(std::string_view what, const std::string& path) {
  const int error = errno;
  const std::string message = fmt::format("cannot {} {}: {}", what, path, std::strerror(error));
  if (error == EMFILE || error == ENFILE || error == ENOMEM) {
    throw ResourceError(message, "raise the limit of open files (ulimit -n), or free memory");
  }
  throw FileError(message, hint_for(error));
}

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) {
    UniqueFd old(release());
    fd_ = other.release();
  }
  return *this;
}

UniqueFd::~UniqueFd() {
  if (is_open()) {
    ::close(fd_);
  }
}

int UniqueFd::release() {
  return std::exchange(fd_, -1);
}

UniqueFd create_exclusively(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, kFileMode));
  if (!fd.is_open()) {
    throw_errno("create", path);
  }
  return fd;
}

UniqueFd open_file(const std::string& path, int flags) {
  UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC));
  if (!fd.is_open()) {
    throw_errno("open", path);
  }
  return fd;
}

void write_durably(const std::string& path, std::string_view content) {
  const std::string temporary = path + ".tmp";
  if (::unlink(temporary.c_str()) != 0 && errno != ENOENT) {  // of a run that was killed
    throw_errno("remove", temporary);
  }
  try {
    const UniqueFd fd = create_exclusively(temporary);
    write_all(fd.get(), content, temporary);
    if (struct stat old{}; ::geteuid() == 0 && ::lstat(path.c_str(), &old) == 0) {
      (void)!::fchown(fd.get(), old.st_uid, old.st_gid);  // root looks at a user's chain: it stays the user's
    }
    if (::fsync(fd.get()) != 0) {
      throw_errno("sync", temporary);
    }
    rename_durably(temporary, path);
  } catch (const Error&) {
    ::unlink(temporary.c_str());
    throw;
  }
}

void rename_durably(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    throw_errno("rename", from);
  }
  sync_folder(folder_of(to));
  if (folder_of(from) != folder_of(to)) {
    sync_folder(folder_of(from));
  }
}

void link_or_move_durably(const std::string& from, const std::string& to) {
  std::error_code none;
  if (std::filesystem::is_symlink(from, none)) {
    link_to_same_target(from, to);
    return;
  }
  const int error = ::link(from.c_str(), to.c_str()) == 0 ? 0 : errno;
  if (error == 0 || (error == EEXIST && is_same_file(from, to))) {
    sync_folder(folder_of(to));
    return;
  }
  if (error == EPERM || error == EOPNOTSUPP || error == ENOSYS || error == EMLINK) {
    rename_durably(from, to);
    return;
  }
  errno = error;
  throw_errno_between("link", from, to);
}

void rename_to_new_durably(const std::string& from, const std::string& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) != 0) {
    const int error = errno;
    if (is_same_file(from, to)) {  // killed between the two steps below
      remove_durably(from);
    } else if (error != EINVAL && error != ENOSYS) {  // those say: not on this file system (NFS), not in this kernel
      errno = error;
      throw_errno_between("rename", from, to);
    } else if (exists(to)) {
      errno = EEXIST;
      throw_errno_between("rename", from, to);
    } else {
      link_or_move_durably(from, to);  // does not replace either, where there are hard links
      remove_durably(from);
    }
  }
  sync_folder(folder_of(to));
}

void remove_durably(const std::string& path) {
  if (::unlink(path.c_str()) != 0) {
    if (errno == ENOENT) {
      return;
    }
    throw_errno("remove", path);
  }
  sync_folder(folder_of(path));
}

void discard_durably(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat info {};
  // A file with a second name is somebody else's.
  if (fd.is_open() && ::fstat(fd.get(), &info) == 0 && S_ISREG(info.st_mode) && info.st_nlink == 1) {
    (void)!::ftruncate(fd.get(), 0);  // what matters is that its name goes
  }
  remove_durably(path);
}

void make_folder_durably(const std::string& path) {
  if (::mkdir(path.c_str(), kFolderMode) != 0 && !(errno == EEXIST && is_folder(path))) {
    throw_errno("create", path);
  }
  sync_folder(folder_of(path));
}

void sync_file(const std::string& path) {
  const UniqueFd fd = open_file(path, O_RDONLY);
  if (::fsync(fd.get()) != 0) {
    throw_errno("sync", path);
  }
}

void sync_folder(const std::string& path) {
  const UniqueFd fd = open_file(path, O_RDONLY | O_DIRECTORY);
  if (::fsync(fd.get()) != 0) {
    throw_errno("sync", path);
  }
}

std::optional<std::string> read_file_if_there(const std::string& path, ByteCount limit) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.is_open()) {
    if (errno == ENOENT) {
      return std::nullopt;
    }
    throw_errno("open", path);
  }
  std::string content;
  std::string block(64 * kKiB, '\0');
  for (;;) {
    const ssize_t got = ::read(fd.get(), block.data(), block.size());
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      throw_errno("read", path);
    }
    if (got == 0) {
      return content;
    }
    content.append(block, 0, static_cast<std::size_t>(got));
    if (content.size() > limit) {
      return content.substr(0, limit);
    }
  }
}

bool exists(const std::string& path) {
  struct stat info {};
  return look_at(path, info);
}

bool is_same_file(const std::string& one, const std::string& other) {
  struct stat a {};
  struct stat b {};
  return look_at(one, a) && look_at(other, b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

std::optional<FileInfo> regular_file_info(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    if (errno != ENOENT && errno != ENOTDIR && errno != ELOOP) {
      throw_errno("look at", path);
    }
    return std::nullopt;
  }
  if (!S_ISREG(info.st_mode)) {
    return std::nullopt;
  }
  struct stat name {};
  const bool is_link = ::lstat(path.c_str(), &name) == 0 && S_ISLNK(name.st_mode);
  return FileInfo{static_cast<ByteCount>(info.st_size), info.st_ino, format_utc(info.st_mtime), is_link,
                  (info.st_mode & (S_IWGRP | S_IWOTH)) != 0};
}

std::optional<ByteCount> block_device_size(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0 || !S_ISBLK(info.st_mode)) {
    return std::nullopt;
  }
  const UniqueFd fd = open_file(path, O_RDONLY);
  std::uint64_t size = 0;
  if (::ioctl(fd.get(), BLKGETSIZE64, &size) != 0) {
    throw_errno("ask for the size of", path);
  }
  return size;
}

std::vector<std::string> list_folder(const std::string& path) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(path, error), end; !error && entry != end; entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  if (error && error != std::errc::no_such_file_or_directory && error != std::errc::not_a_directory) {
    errno = error.value();
    throw_errno("list", path);
  }
  return names;
}

std::vector<std::byte> read_front(const std::string& path, std::size_t size) {
  std::vector<std::byte> front(size);
  std::size_t filled = 0;
  const UniqueFd fd = open_file(path, O_RDONLY | O_NONBLOCK);
  while (filled < size) {
    const ssize_t got = ::read(fd.get(), front.data() + filled, size - filled);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      throw_errno("read", path);
    }
    if (got == 0) {
      break;
    }
    filled += static_cast<std::size_t>(got);
  }
  front.resize(filled);
  return front;
}

std::string sha256_of_file(const std::string& path, const std::function<void(ByteCount)>& progress,
                           PageCache page_cache) {
  constexpr off_t kAhead = 8 * kMiB;  // so much is on its way from the storage while a block is hashed
  std::vector<std::byte> block(kMiB);
  const UniqueFd fd = open_file(path, O_RDONLY);
  if (page_cache == PageCache::kDrop) {
    ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);  // what is on disk counts, not what is in memory
  }
  ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
  ::posix_fadvise(fd.get(), 0, kAhead, POSIX_FADV_WILLNEED);
  Sha256 hash;
  ByteCount done = 0;
  for (;;) {
    ::posix_fadvise(fd.get(), static_cast<off_t>(done) + kAhead, static_cast<off_t>(block.size()), POSIX_FADV_WILLNEED);
    const ssize_t got = ::read(fd.get(), block.data(), block.size());
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      throw_errno("read", path);
    }
    if (got == 0) {
      return hash.finish();
    }
    hash.add({block.data(), static_cast<std::size_t>(got)});
    if (page_cache == PageCache::kDrop) {  // what was read is not needed again
      ::posix_fadvise(fd.get(), static_cast<off_t>(done), got, POSIX_FADV_DONTNEED);
    }
    done += static_cast<ByteCount>(got);
    progress(done);
  }
}

void copy_content(const std::string& from, const std::string& to, const std::function<void(ByteCount)>& progress) {
  constexpr std::size_t kPiece = 64 * kMiB;
  const UniqueFd in = open_file(from, O_RDONLY);
  const UniqueFd out = open_file(to, O_WRONLY);
  ByteCount done = 0;
  for (;;) {
    const ssize_t got = ::copy_file_range(in.get(), nullptr, out.get(), nullptr, kPiece, 0);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      throw_errno_between("copy", from, to);
    }
    if (got == 0) {
      return;
    }
    done += static_cast<ByteCount>(got);
    progress(done);
  }
}

}  // namespace qmpbackup
