// Ways to damage one file of a chain, and what can be known of each.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace qmpbackup::test {

// Where the parts of a qcow2 file lie; all offsets are in bytes. Of parts that come many times the first in use.
struct Qcow2Layout {
  explicit Qcow2Layout(const std::filesystem::path& file);

  std::uint64_t l1_entry = 0;
  std::uint64_t l2_entry = 0;
  std::uint64_t refcount_table = 0;
  std::uint64_t refcount = 0;  // 16 bits, of the data cluster
  std::uint64_t data = 0;      // of a cluster in use, compressed or not
};

// What is needed to see the damage: nothing but the file, the sizes in the manifest, or a checksum. Nobody sees what
// leaves the content as it was.
enum class SeenBy { File, Manifest, Checksum, Nobody };

struct Damage {
  std::string name;
  SeenBy seen_by;
  // Damages the level file at `path`, in the middle of the chain. Its neighbours are beside it.
  std::function<void(const std::filesystem::path& path)> apply;
};

// To the bytes of a file: each part of the qcow2 format, and its length.
std::vector<Damage> byte_damages();
// To names, links and times: `base` is that of the chain, the damaged level is inc1 of four.
std::vector<Damage> file_damages();

void flip_byte(const std::filesystem::path& file, std::uint64_t offset);

}  // namespace qmpbackup::test
