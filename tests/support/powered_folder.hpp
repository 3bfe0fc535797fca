// A folder that loses what was not synced when its power is cut.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "support/loop_device.hpp"
#include "support/temp_folder.hpp"

namespace qmpbackup::test {

// An ext4 file system of its own on a loop device, which writes nothing out before it is told to. Needs root; check it
// with QMPBACKUP_REQUIRE(folder.problem()).
class PoweredFolder {
 public:
  explicit PoweredFolder(std::uint64_t size_bytes);
  PoweredFolder(const PoweredFolder&) = delete;
  PoweredFolder& operator=(const PoweredFolder&) = delete;
  ~PoweredFolder();

  // Why nothing is mounted; empty when all is well.
  const std::string& problem() const { return problem_; }
  const std::filesystem::path& path() const { return mount_point_.path(); }

  // From now on every call on it fails with EIO.
  void cut_power() const;
  bool is_off() const;
  // It is there again, with what its journal has, on a copy of its storage: files that are still open stay dead, and
  // nothing that the kernel still wants to write for them gets into it.
  void power_on();
  // Writes everything out.
  void sync() const;

 private:
  void mount();
  std::filesystem::path image() const;

  TempFolder image_folder_;
  TempFolder mount_point_;
  std::unique_ptr<LoopDevice> device_;
  bool mounted_ = false;
  int copies_ = 0;
  std::string problem_;
};

}  // namespace qmpbackup::test
