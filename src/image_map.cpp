#include "qmpbackup/image_map.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>

#include "qmpbackup/errors.hpp"

namespace qmpbackup {

void ImageMap::add(std::string_view piece) {
  rest_ += piece;
  std::size_t begin = 0;
  for (std::size_t end = rest_.find('\n'); end != std::string::npos; end = rest_.find('\n', begin)) {
    add_line(std::string_view(rest_).substr(begin, end - begin));
    begin = end + 1;
  }
  rest_.erase(0, begin);
  if (rest_.size() > kMiB) {
    throw Error("qemu-img map prints a line without end");
  }
}

void ImageMap::add_line(std::string_view line) {
  const auto first = line.find('{');
  const auto last = line.rfind('}');
  if (first == std::string_view::npos || last == std::string_view::npos) {
    return;  // "[" or "]" alone: an image without extents
  }
  try {
    const nlohmann::json extent = nlohmann::json::parse(line.substr(first, last - first + 1));
    const auto start = extent.at("start").get<ByteCount>();
    const auto length = extent.at("length").get<ByteCount>();
    if (start != end_) {
      throw Error("qemu-img map left a gap");
    }
    end_ = start + length;
    // "present" came with QEMU 6.1; before it, depth 0 said the same for an image without a backing file.
    const bool here = extent.at("depth").get<int>() == 0 &&
                      extent.value("present", extent.at("data").get<bool>() || extent.at("zero").get<bool>());
    present_ += here ? length : 0;
  } catch (const nlohmann::json::exception&) {
    throw Error("qemu-img map prints something unknown: " + std::string(line.substr(0, 80)));
  }
}

bool covers(ByteCount present, ByteCount copied, ByteCount virtual_size, ByteCount cluster_size) {
  const ByteCount unit = std::max(cluster_size, 64 * kKiB);  // backup's smallest (BACKUP_CLUSTER_SIZE_DEFAULT)
  const ByteCount overhang = round_up(virtual_size, unit) - virtual_size;
  return present + overhang >= copied;
}

}  // namespace qmpbackup
