// Random guest writes that can be had again from a seed.
#pragma once

#include <cstdint>
#include <random>
#include <string>

#include "support/qemu_vm.hpp"

namespace qmpbackup::test {

class RandomWriter {
 public:
  // Prints the seed.
  explicit RandomWriter(std::uint64_t seed);

  // `count` writes, writes of zeros and discards of 512 bytes to 256 KiB, aligned to 512 bytes, within `disk_size`.
  void mutate(QemuVm& vm, const std::string& disk, std::uint64_t disk_size, int count);

 private:
  std::uint64_t below(std::uint64_t limit);

  std::mt19937_64 random_;
};

}  // namespace qmpbackup::test
