#include "qmpbackup/bitmap_marks.hpp"

#include <fmt/format.h>

namespace qmpbackup {
namespace {

using nlohmann::json;

constexpr ByteCount kSector = 512;

QmpCommand add_bitmap(const NodeName& scratch, const BitmapName& name) {
  return {"block-dirty-bitmap-add", {{"node", scratch.value}, {"name", name.value}, {"granularity", kGranularity}}};
}

}  // namespace

std::vector<ByteCount> mark_offsets(ByteCount virtual_size) {
  if (virtual_size == 0) {
    return {};
  }
  const auto granule_of = [](ByteCount offset) { return offset / kGranularity * kGranularity; };
  const ByteCount last = granule_of(virtual_size - 1);
  std::vector<ByteCount> offsets{last};
  for (ByteCount distance = kGranularity; distance != 0 && distance <= last; distance *= 4) {
    offsets.push_back(last - distance);
  }
  return offsets;
}

QmpCommand add_scratch_node(const NodeName& scratch, ByteCount virtual_size) {
  return {"blockdev-add",
          {{"driver", "null-co"}, {"node-name", scratch.value}, {"size", virtual_size}, {"read-zeroes", true}}};
}

std::vector<QmpCommand> add_marks(const NodeName& scratch, const BitmapName& name, ByteCount marked_size) {
  std::vector<QmpCommand> commands{add_bitmap(scratch, name)};
  for (const ByteCount offset : mark_offsets(marked_size)) {
    commands.push_back(
        {"human-monitor-command",
         {{"command-line", fmt::format("qemu-io {} \"write -q -z {} {}\"", scratch.value, offset, kSector)}}});
  }
  return commands;
}

QmpCommand compare_with_marks(const NodeName& scratch, const NodeName& node, const BitmapName& bitmap) {
  const json theirs{{"node", node.value}, {"name", bitmap.value}};
  const json old_marks{{"node", scratch.value}, {"name", kOldMarks.value}};
  const auto add = [&](const BitmapName& name) {
    return json{{"type", "block-dirty-bitmap-add"},
                {"data", {{"node", scratch.value}, {"name", name.value}, {"granularity", kGranularity}}}};
  };
  const auto merge = [&](const BitmapName& target, const json& sources) {
    return json{{"type", "block-dirty-bitmap-merge"},
                {"data", {{"node", scratch.value}, {"target", target.value}, {"bitmaps", sources}}}};
  };
  return {"transaction",
          {{"actions", json::array({add(kCopy), merge(kCopy, json::array({theirs})), add(kUnion),
                                    merge(kUnion, json::array({theirs, old_marks}))})}}};
}

}  // namespace qmpbackup
