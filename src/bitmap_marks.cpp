#include "qmpbackup/bitmap_marks.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace qmpbackup {
namespace {

using nlohmann::json;

QmpCommand add_bitmap(const NodeName& scratch, const BitmapName& name) {
  return {"block-dirty-bitmap-add", {{"node", scratch.value}, {"name", name.value}, {"granularity", kGranularity}}};
}

}  // namespace

std::vector<MarkedRange> marks_of(ByteCount virtual_size) {
  if (virtual_size == 0) {
    return {};
  }
  const ByteCount last = (virtual_size - 1) / kGranularity * kGranularity;
  const ByteCount tail = last - std::min(last, kMiB - kGranularity);
  std::vector<MarkedRange> ranges{{tail, virtual_size - tail}};
  for (ByteCount half = kMiB; half != 0 && half < last; half *= 2) {
    for (ByteCount distance = half + half / 4; distance <= std::min(2 * half, last); distance += half / 4) {
      ranges.push_back({last - distance + kGranularity, kGranularity});
    }
  }
  return ranges;
}

std::size_t count_marks(ByteCount virtual_size) {
  std::size_t count = 0;
  for (const MarkedRange& range : marks_of(virtual_size)) {
    count += round_up(range.length, kGranularity) / kGranularity;
  }
  return count;
}

QmpCommand add_scratch_node(const NodeName& scratch, ByteCount virtual_size) {
  return {"blockdev-add",
          {{"driver", "null-co"}, {"node-name", scratch.value}, {"size", virtual_size}, {"read-zeroes", true}}};
}

std::vector<QmpCommand> add_marks(const NodeName& scratch, const BitmapName& name, ByteCount marked_size) {
  std::vector<QmpCommand> commands{add_bitmap(scratch, name)};
  for (const MarkedRange& range : marks_of(marked_size)) {
    commands.push_back({"human-monitor-command",
                        {{"command-line", fmt::format("qemu-io {} \"write -q -z {} {}\"", scratch.value, range.offset,
                                                      range.length)}}});
  }
  commands.push_back({"block-dirty-bitmap-disable", {{"node", scratch.value}, {"name", name.value}}});
  return commands;
}

json compare_with_marks(const NodeName& scratch, const BitmapName& marks, const NodeName& node,
                        const BitmapName& bitmap) {
  const json theirs{{"node", node.value}, {"name", bitmap.value}};
  const json old_marks{{"node", scratch.value}, {"name", marks.value}};
  const auto add = [&](const BitmapName& name) {
    return json{{"type", "block-dirty-bitmap-add"},
                {"data", {{"node", scratch.value}, {"name", name.value}, {"granularity", kGranularity}}}};
  };
  const auto merge = [&](const BitmapName& target, const json& sources) {
    return json{{"type", "block-dirty-bitmap-merge"},
                {"data", {{"node", scratch.value}, {"target", target.value}, {"bitmaps", sources}}}};
  };
  return json::array(
      {add(kCopy), merge(kCopy, json::array({theirs})), add(kUnion), merge(kUnion, json::array({theirs, old_marks}))});
}

bool marks_were_lost(const std::vector<Node>& nodes, const NodeName& scratch) {
  const auto node = std::find_if(nodes.begin(), nodes.end(), [&](const Node& n) { return n.name == scratch; });
  const Bitmap* copy = node == nodes.end() ? nullptr : node->find_bitmap(kCopy);
  const Bitmap* both = node == nodes.end() ? nullptr : node->find_bitmap(kUnion);
  return copy != nullptr && both != nullptr && copy->dirty != both->dirty;
}

}  // namespace qmpbackup
