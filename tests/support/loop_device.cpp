#include "support/loop_device.hpp"

#include "support/program.hpp"

namespace qmpbackup::test {

LoopDevice::LoopDevice(const std::filesystem::path& file) {
  const ProgramResult result = run_program({"losetup", "--find", "--show", file});
  path_ = result.exit_code == 0 ? result.out.substr(0, result.out.find('\n')) : "";
  problem_ = path_.empty() ? "no loop device: " + result.err : "";
}

LoopDevice::~LoopDevice() {
  if (!path_.empty()) {
    run_program({"losetup", "--detach", path_});
  }
}

}  // namespace qmpbackup::test
