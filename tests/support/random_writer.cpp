#include "support/random_writer.hpp"

#include <algorithm>
#include <iostream>

namespace qmpbackup::test {

namespace {

constexpr std::uint64_t sector = 512;

}  // namespace

RandomWriter::RandomWriter(std::uint64_t seed) : random_(seed) {
  std::cout << "random writer: seed " << seed << "\n";
}

void RandomWriter::mutate(QemuVm& vm, const std::string& disk, std::uint64_t disk_size, int count) {
  for (int i = 0; i < count; ++i) {
    // As many lengths of 512 to 1023 bytes as of 128 to 256 KiB.
    const auto longest = std::min((sector << below(10)), disk_size / sector * sector);
    const auto length = (1 + below(longest / sector)) * sector;
    const auto offset = below((disk_size - length) / sector + 1) * sector;
    const auto kind = below(6);
    if (kind == 0) {
      vm.write_zeroes(disk, offset, length);
    } else if (kind == 1) {
      vm.discard(disk, offset, length);
    } else {
      vm.write(disk, offset, length, static_cast<std::uint8_t>(1 + below(255)));
    }
  }
}

std::uint64_t RandomWriter::below(std::uint64_t limit) {
  return std::uniform_int_distribution<std::uint64_t>(0, limit - 1)(random_);
}

}  // namespace qmpbackup::test
