#include "support/temp_folder.hpp"

#include <sys/mount.h>

#include <cerrno>
#include <cstdlib>
#include <system_error>

namespace qmpbackup::test {

namespace fs = std::filesystem;

namespace {

fs::path default_parent() {
  const char* folder = std::getenv("TMPDIR");
  return folder != nullptr && *folder != '\0' ? folder : "/tmp";
}

std::string size_option(std::uint64_t size_bytes) {
  return "mode=0700,size=" + std::to_string(size_bytes);
}

}  // namespace

TempFolder::TempFolder() : TempFolder(default_parent()) {}

TempFolder::TempFolder(const fs::path& parent) {
  std::string name = parent / "qmpbackup-XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) {
    throw std::system_error(errno, std::generic_category(), "mkdtemp " + name);
  }
  path_ = name;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

TmpfsFolder::TmpfsFolder(std::uint64_t size_bytes) {
  if (::mount("tmpfs", path().c_str(), "tmpfs", 0, size_option(size_bytes).c_str()) != 0) {
    problem_ = "cannot mount a tmpfs: " + std::generic_category().message(errno);
  }
}

TmpfsFolder::~TmpfsFolder() {
  if (available()) {
    ::umount2(path().c_str(), MNT_DETACH);  // also when a process that is being killed still holds a file
  }
}

void TmpfsFolder::resize(std::uint64_t size_bytes) {
  if (::mount("tmpfs", path().c_str(), "tmpfs", MS_REMOUNT, size_option(size_bytes).c_str()) != 0) {
    throw std::system_error(errno, std::generic_category(), "remount " + path().string());
  }
}

}  // namespace qmpbackup::test
