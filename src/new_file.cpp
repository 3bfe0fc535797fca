#include "qmpbackup/new_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>

#include "qmpbackup/errors.hpp"

namespace qmpbackup {
namespace {

std::string folder_of(const std::string& path) {
  return std::filesystem::absolute(path).parent_path().string();
}

/// The way in which a file without a name can be given one (open(2), linkat(2)).
std::string link_to(int fd) {
  return fmt::format("/proc/self/fd/{}", fd);
}

/// Nothing where that cannot be had.
UniqueFd open_unnamed(const std::string& folder) {
  constexpr mode_t kMode = 0600;
  UniqueFd fd(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, kMode));
  return fd.is_open() && exists(link_to(fd.get())) ? std::move(fd) : UniqueFd();
}

}  // namespace

NewFile::NewFile(std::string path) : path_(std::move(path)), fd_(open_unnamed(folder_of(path_))) {
  if (!fd_.is_open()) {
    const std::string partial = path_ + ".partial";
    if (exists(partial)) {
      throw ChainError(fmt::format("{} is in the way: an earlier run was killed, or another one works", partial),
                       "remove it when no other one works");
    }
    fd_ = create_exclusively(partial);
    partial_ = partial;
  }
}

NewFile::~NewFile() {
  if (!partial_.empty()) {
    ::unlink(partial_.c_str());
  }
}

void NewFile::set_size(ByteCount size) const {
  if (::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) {
    throw_errno("resize", path_);
  }
}

bool NewFile::takes_direct_io() const {
  return UniqueFd(::open(link_to(fd_.get()).c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC)).is_open();
}

void NewFile::keep() {
  if (::fsync(fd_.get()) != 0) {
    throw_errno("sync", path_);
  }
  if (!partial_.empty()) {
    rename_to_new_durably(partial_, path_);
    partial_.clear();
    return;
  }
  if (::linkat(AT_FDCWD, link_to(fd_.get()).c_str(), AT_FDCWD, path_.c_str(), AT_SYMLINK_FOLLOW) != 0) {
    throw_errno("create", path_);
  }
  sync_folder(folder_of(path_));
}

}  // namespace qmpbackup
