#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "support/program.hpp"
#include "support/temp_folder.hpp"

namespace qmpbackup::test {

// A folder on a file system that can hang: fuse2fs serves it, and stops to. Who looks at its files then waits in the
// kernel. Needs root and /dev/fuse.
class FuseFolder {
 public:
  explicit FuseFolder(std::uint64_t size_bytes);
  ~FuseFolder();  // whoever waits gets an error
  FuseFolder(const FuseFolder&) = delete;
  FuseFolder& operator=(const FuseFolder&) = delete;

  // Why nothing is mounted; empty when all is well.
  const std::string& problem() const { return problem_; }

  void hang();
  void go_on();

  std::filesystem::path operator/(const std::string& name) const { return mount_point() / name; }

 private:
  std::filesystem::path mount_point() const { return temp_ / "mnt"; }

  TempFolder temp_;
  std::string problem_;
  std::unique_ptr<BackgroundProgram> server_;
};

}  // namespace qmpbackup::test
