#include "support/powered_folder.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <system_error>

#include "support/program.hpp"

namespace qmpbackup::test {

namespace fs = std::filesystem;

namespace {

// EXT4_IOC_SHUTDOWN and EXT4_GOING_FLAGS_NOLOGFLUSH of the kernel's include/uapi/linux/ext4.h, which older headers
// lack.
constexpr unsigned long kShutdown = _IOR('X', 125, std::uint32_t);
constexpr std::uint32_t kNothingIsWrittenOut = 2;

template <typename Call>
void on_folder(const fs::path& path, const Call& call) {
  const int folder = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const int result = folder < 0 ? -1 : call(folder);
  const int error = errno;
  ::close(folder);
  if (result != 0) {
    throw std::system_error(error, std::generic_category(), path.string());
  }
}

}  // namespace

PoweredFolder::PoweredFolder(std::uint64_t size_bytes) {
  if (const auto made = run_program({"truncate", "--size", std::to_string(size_bytes), image()}); made.exit_code != 0) {
    problem_ = made.err;
  } else if (const auto formatted = run_program({"mkfs.ext4", "-q", "-J", "size=4", image()});
             formatted.exit_code != 0) {
    problem_ = "mkfs.ext4: " + formatted.err;
  } else {
    mount();
  }
}

PoweredFolder::~PoweredFolder() {
  if (mounted_) {
    ::umount2(path().c_str(), MNT_DETACH);
  }
}

fs::path PoweredFolder::image() const {
  return image_folder_ / std::to_string(copies_);
}

void PoweredFolder::mount() {
  device_ = std::make_unique<LoopDevice>(image());
  problem_ = device_->problem();
  if (problem_.empty()) {
    // Neither a timer nor a rename over another file writes anything out.
    mounted_ = ::mount(device_->path().c_str(), path().c_str(), "ext4", 0, "commit=3600,noauto_da_alloc") == 0;
    problem_ = mounted_ ? "" : "cannot mount ext4: " + std::generic_category().message(errno);
  }
}

void PoweredFolder::cut_power() const {
  on_folder(path(), [](int folder) { return ::ioctl(folder, kShutdown, &kNothingIsWrittenOut); });
}

bool PoweredFolder::is_off() const {
  const int fd = ::open(path().c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  const bool off = fd < 0 && errno == EIO;
  ::close(fd);
  return off;
}

void PoweredFolder::power_on() {
  const fs::path old = image();
  ++copies_;
  run_checked({"cp", "--sparse=always", old, image()});
  ::umount2(path().c_str(), MNT_DETACH);
  mounted_ = false;
  fs::remove(old);
  mount();
  if (!problem_.empty()) {
    throw std::runtime_error(problem_);
  }
}

void PoweredFolder::sync() const {
  on_folder(path(), [](int folder) { return ::syncfs(folder); });
}

}  // namespace qmpbackup::test
