#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "qmpbackup/sizes.hpp"

namespace qmpbackup {

/// How much of a file parse_qcow2_header needs at most: the header and the longest backing file name.
inline constexpr std::size_t kQcow2HeaderBytes = 64 * kKiB;

/// What a qcow2 file says about itself (docs/interop/qcow2.txt).
struct Qcow2Header {
  unsigned version = 0;
  ByteCount virtual_size = 0;
  ByteCount cluster_size = 0;
  std::string backing_file;     ///< as it stands there; empty for none
  std::string backing_format;   ///< as what QEMU reads the backing file; empty: as what it looks like
  bool zstd = false;            ///< compression type of compressed clusters; zlib otherwise
  bool corrupt = false;         ///< QEMU noted damage in the file
  bool data_elsewhere = false;  ///< its clusters lie in another file, which it names

  /// The backing file's name without "./" or a folder in front.
  [[nodiscard]] std::string backing_name() const;
};

/// Reads the front of a file. Nothing when that is no qcow2 version 2 or 3, or is cut off.
std::optional<Qcow2Header> parse_qcow2_header(std::span<const std::byte> front);

/// What an empty image is made with.
struct ImageFormat {
  ByteCount virtual_size = 0;
  ByteCount cluster_size = 0;
  bool zstd = false;           ///< compressed clusters are zstd, not zlib
  std::string backing_link{};  ///< the backing file as its header names it; none when empty
};

}  // namespace qmpbackup
