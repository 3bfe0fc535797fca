#include "qmpbackup/bitmap_marks.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace qmpbackup {
namespace {

using nlohmann::json;

QmpCommand add_bitmap(const NodeName& scratch, const BitmapName& name) {
  return {"block-dirty-bitmap-add", {{"node", scratch.value}, {"name", name.value}, {"granularity", kGranularity}}};
}

/// The number `index` of those that follow from a seed: splitmix64, https://prng.di.unimi.it/splitmix64.c.
std::uint64_t scattered(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15U;
  z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27U)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31U);
}

void add_scattered(std::vector<MarkedRange>& ranges, ByteCount granules, std::uint64_t seed) {
  constexpr std::uint64_t kScattered = 8;
  for (std::uint64_t i = 0; i < kScattered; ++i) {
    const ByteCount offset = scattered(seed, i) % granules * kGranularity;
    if (std::none_of(ranges.begin(), ranges.end(), [&](const MarkedRange& range) {
          return range.offset <= offset && offset < range.offset + range.length;
        })) {
      ranges.push_back({offset, kGranularity});
    }
  }
}

}  // namespace

std::vector<MarkedRange> marks_of(ByteCount virtual_size, std::uint64_t seed) {
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
  if (seed != 0) {
    add_scattered(ranges, last / kGranularity + 1, seed);
  }
  return ranges;
}

std::size_t count_marks(ByteCount virtual_size, std::uint64_t seed) {
  std::size_t count = 0;
  for (const MarkedRange& range : marks_of(virtual_size, seed)) {
    count += round_up(range.length, kGranularity) / kGranularity;
  }
  return count;
}

QmpCommand add_scratch_node(const NodeName& scratch, ByteCount virtual_size) {
  return {"blockdev-add",
          {{"driver", "null-co"}, {"node-name", scratch.value}, {"size", virtual_size}, {"read-zeroes", true}}};
}

std::vector<QmpCommand> add_marks(const NodeName& scratch, const BitmapName& name, ByteCount marked_size,
                                  std::uint64_t seed) {
  std::vector<QmpCommand> commands{add_bitmap(scratch, name)};
  for (const MarkedRange& range : marks_of(marked_size, seed)) {
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
