// A block device over a file.
#pragma once

#include <filesystem>
#include <string>

namespace qmpbackup::test {

// Needs root; check it with QMPBACKUP_REQUIRE(device.problem()).
class LoopDevice {
 public:
  explicit LoopDevice(const std::filesystem::path& file);
  LoopDevice(const LoopDevice&) = delete;
  LoopDevice& operator=(const LoopDevice&) = delete;
  ~LoopDevice();  // it goes when nobody has it open

  const std::string& path() const { return path_; }
  // Why there is none; empty when there is.
  const std::string& problem() const { return problem_; }

 private:
  std::string path_, problem_;
};

}  // namespace qmpbackup::test
