#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace qmpbackup {

/// A number of bytes. Sizes in messages, manifest and JSON are bytes, never clusters or sectors.
using ByteCount = std::uint64_t;

inline constexpr ByteCount kKiB = 1024;
inline constexpr ByteCount kMiB = 1024 * kKiB;
inline constexpr ByteCount kGiB = 1024 * kMiB;

/// "25.5 MiB": one decimal and a binary unit; below 1 KiB "512 B".
std::string format_size(ByteCount bytes);

/// Reads "65536", "64K", "1M", "2G" (also "64KiB"; units are powers of 1024). Nothing for anything else, an overflow
/// included.
std::optional<ByteCount> parse_size(std::string_view text);

/// `bytes` rounded up to a multiple of `unit` (not 0).
constexpr ByteCount round_up(ByteCount bytes, ByteCount unit) {
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace qmpbackup
