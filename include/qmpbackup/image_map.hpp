#pragma once

#include <string>
#include <string_view>

#include "qmpbackup/sizes.hpp"

namespace qmpbackup {

/// Sums up `qemu-img map --output=json`, which prints an extent a line, without holding it: a fragmented disk has
/// millions of extents.
class ImageMap {
 public:
  /// Takes the next piece of the output, cut anywhere. Throws Error where it is not what qemu-img prints.
  void add(std::string_view piece);

  /// Bytes that the image itself holds (depth 0), zero clusters included.
  [[nodiscard]] ByteCount present() const { return present_; }
  /// Bytes up to which extents follow each other without a gap.
  [[nodiscard]] ByteCount end() const { return end_; }

 private:
  void add_line(std::string_view line);

  std::string rest_;
  ByteCount present_ = 0;
  ByteCount end_ = 0;
};

/// Whether a level with so many bytes present holds all that its job copied. A job counts its last cluster whole, past
/// the disk's end.
bool covers(ByteCount present, ByteCount copied, ByteCount virtual_size, ByteCount cluster_size);

}  // namespace qmpbackup
