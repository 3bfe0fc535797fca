#include "support/fuse_folder.hpp"

#include <sys/mount.h>
#include <sys/stat.h>

#include <csignal>

#include "support/requirements.hpp"

namespace qmpbackup::test {

namespace fs = std::filesystem;

namespace {

dev_t device_of(const fs::path& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 ? info.st_dev : 0;
}

}  // namespace

FuseFolder::FuseFolder(std::uint64_t size_bytes) {
  problem_ = missing_program("fuse2fs");
  if (!problem_.empty()) {
    return;
  }
  const fs::path image = temp_ / "image";
  run_checked({"truncate", "--size", std::to_string(size_bytes), image});
  run_checked({"mkfs.ext4", "-q", image});
  fs::create_directory(mount_point());
  server_ = std::make_unique<BackgroundProgram>(
      std::vector<std::string>{"fuse2fs", "-f", "-o", "allow_other", image, mount_point()});
  for (int i = 0; i < 100 && device_of(mount_point()) == device_of(temp_.path()); ++i) {
    if (server_->finished_within(std::chrono::milliseconds(100))) {
      problem_ = "fuse2fs: " + server_->err();
      return;
    }
  }
  if (device_of(mount_point()) == device_of(temp_.path())) {
    problem_ = "fuse2fs mounts nothing: " + server_->err();
  }
}

FuseFolder::~FuseFolder() {
  if (server_) {
    server_->send_signal(SIGKILL);
    server_->wait();
    ::umount2(mount_point().c_str(), MNT_DETACH);
  }
}

void FuseFolder::hang() {
  server_->send_signal(SIGSTOP);
}

void FuseFolder::go_on() {
  server_->send_signal(SIGCONT);
}

}  // namespace qmpbackup::test
