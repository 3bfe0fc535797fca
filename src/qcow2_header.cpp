#include "qmpbackup/qcow2_header.hpp"

#include <algorithm>
#include <cstdint>

namespace qmpbackup {
namespace {

constexpr std::size_t kVersion2Bytes = 72;
constexpr std::size_t kVersion3Bytes = 104;
constexpr std::uint32_t kMagic = 0x514649fb;  // "QFI\xfb"
constexpr std::uint64_t kCorruptBit = 1U << 1;
constexpr std::uint64_t kExternalDataBit = 1U << 2;

std::uint64_t big_endian(std::span<const std::byte> bytes, std::size_t offset, std::size_t size) {
  std::uint64_t value = 0;
  for (const std::byte b : bytes.subspan(offset, size)) {
    value = value << 8 | std::to_integer<std::uint64_t>(b);
  }
  return value;
}

std::string text_at(std::span<const std::byte> bytes, std::size_t offset, std::size_t size) {
  std::string text;
  for (const std::byte b : bytes.subspan(offset, size)) {
    text.push_back(static_cast<char>(b));
  }
  return text;
}

/// The backing format among the header extensions, which lie between the header and `end`. False when they are cut off.
bool read_backing_format(std::span<const std::byte> front, std::size_t offset, std::size_t end, std::string& format) {
  constexpr std::uint64_t kEndOfExtensions = 0;
  constexpr std::uint64_t kBackingFormat = 0xe2792aca;
  while (offset <= end && end - offset >= 8) {
    const std::uint64_t type = big_endian(front, offset, 4);
    const std::uint64_t size = big_endian(front, offset + 4, 4);
    offset += 8;
    if (type == kEndOfExtensions) {
      return true;
    }
    if (size > end - offset) {
      return false;
    }
    if (type == kBackingFormat) {
      format = text_at(front, offset, size);
    }
    offset += round_up(size, 8);
  }
  return true;
}

}  // namespace

std::string Qcow2Header::backing_name() const {
  return backing_file.substr(backing_file.rfind('/') + 1);
}

std::optional<Qcow2Header> parse_qcow2_header(std::span<const std::byte> front) {
  if (front.size() < kVersion2Bytes || big_endian(front, 0, 4) != kMagic) {
    return std::nullopt;
  }
  Qcow2Header header;
  header.version = static_cast<unsigned>(big_endian(front, 4, 4));
  const std::uint64_t name_offset = big_endian(front, 8, 8);
  const std::uint64_t name_size = big_endian(front, 16, 4);
  const std::uint64_t cluster_bits = big_endian(front, 20, 4);
  header.virtual_size = big_endian(front, 24, 8);
  if (header.version < 2 || header.version > 3 || cluster_bits < 9 || cluster_bits > 30) {
    return std::nullopt;
  }
  header.cluster_size = ByteCount{1} << cluster_bits;
  if (name_offset != 0) {
    if (name_size > 1023 || name_offset > front.size() || name_size > front.size() - name_offset) {
      return std::nullopt;
    }
    header.backing_file = text_at(front, name_offset, name_size);
  }
  std::size_t header_bytes = kVersion2Bytes;
  if (header.version == 3) {
    if (front.size() < kVersion3Bytes) {
      return std::nullopt;
    }
    header.corrupt = (big_endian(front, 72, 8) & kCorruptBit) != 0;
    header.data_elsewhere = (big_endian(front, 72, 8) & kExternalDataBit) != 0;
    header_bytes = big_endian(front, 100, 4);
    header.zstd =
        header_bytes > kVersion3Bytes && front.size() > kVersion3Bytes && front[kVersion3Bytes] == std::byte{1};
  }
  const std::size_t end = std::min<std::size_t>(name_offset != 0 ? name_offset : header.cluster_size, front.size());
  if (!read_backing_format(front, header_bytes, end, header.backing_format)) {
    return std::nullopt;
  }
  return header;
}

}  // namespace qmpbackup
