#include "qmpbackup/level_bitmap.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "qmpbackup/bitmap_marks.hpp"

namespace qmpbackup {

namespace {

/// A disk whose end was once within a cluster keeps what the rest of that cluster held, and shows it again when it
/// grows beyond: QEMU notes that in no bitmap. It is copied all the same where it is within the granule of the end,
/// which is a mark, or was written since the last level.
bool may_show_old_data_when_grown(const Node& node, const LevelRecord& last) {
  const Bitmap* bitmap = node.find_bitmap(last.bitmap);
  const bool ends_in_a_cluster = node.cluster_size > 0 && last.virtual_size % node.cluster_size != 0;
  return bitmap == nullptr || node.cluster_size > bitmap->granularity || (last.marks == 0 && ends_in_a_cluster);
}

/// Of the chain that `last` is of.
std::optional<Level> level_of_newer_bitmap(const Node& node, const LevelRecord& last) {
  const auto known = parse_chain_level(last.bitmap.value);
  std::optional<Level> newest;
  for (const Bitmap& bitmap : node.bitmaps) {
    const auto named = parse_chain_level(bitmap.name.value);
    if (known && named && named->chain == known->chain && named->level > known->level) {
      newest = std::max(newest.value_or(named->level), named->level);
    }
  }
  return newest;
}

}  // namespace

std::string why_bitmap_is_unusable(const Node& node, const LevelRecord& last) {
  const Bitmap* bitmap = node.find_bitmap(last.bitmap);
  const std::string level = level_name(last.level);
  if (bitmap == nullptr) {
    if (const auto newer = level_of_newer_bitmap(node, last)) {
      return fmt::format("the disk has the bitmap of level {}, which is not here: this is an older copy of the chain",
                         level_name(*newer));
    }
    return fmt::format("no bitmap for level {} (QEMU was killed since, it was removed, or the disk is another one?)",
                       level);
  }
  if (last.bitmap != kForeignBitmap && bitmap->granularity != last.granularity) {
    return fmt::format("the bitmap for level {} is that of an earlier attempt at it (was the disk rolled back?)",
                       level);
  }
  if (bitmap->inconsistent) {
    return fmt::format("the bitmap for level {} is inconsistent (QEMU was killed since)", level);
  }
  if (!bitmap->recording) {
    return fmt::format("the bitmap for level {} is not recording: writes are missing in it", level);
  }
  if (bitmap->busy) {
    return fmt::format("the bitmap for level {} is busy: something else uses it, an NBD export or another job", level);
  }
  return {};
}

const Node* holder_below_snapshot(const VmState& vm, const Disk& disk, const BitmapName& bitmap) {
  for (const Node* node : backing_chain(vm, disk)) {  // the disk's own node first
    if (node->find_bitmap(bitmap) != nullptr) {
      return node->name == disk.node ? nullptr : node;
    }
  }
  return nullptr;
}

bool went_below_snapshot(const Node& before, const std::vector<Node>& nodes) {
  const auto now = std::find_if(nodes.begin(), nodes.end(), [&](const Node& node) { return node.name == before.name; });
  return now == nodes.end() || (now->read_only && !before.read_only);
}

std::vector<ChainId> chains_of(const Manifest& manifest) {
  std::vector<ChainId> chains = manifest.replaces;
  chains.push_back(manifest.chain);
  if (manifest.pending) {
    chains.push_back(manifest.pending->chain);
  }
  return chains;
}

std::vector<BitmapName> bitmaps_to_keep(const Manifest& manifest, const std::vector<Node>& nodes) {
  const LevelRecord* last = manifest.last();
  if (last == nullptr) {
    return {};
  }
  const bool has_last = std::any_of(nodes.begin(), nodes.end(),
                                    [&](const Node& node) { return node.find_bitmap(last->bitmap) != nullptr; });
  std::vector<BitmapName> keep{last->bitmap};
  for (const Node& node : nodes) {
    for (const Bitmap& bitmap : node.bitmaps) {
      const auto named = parse_chain_level(bitmap.name.value);
      const Level next = manifest.next_level();
      if (named && named->chain == manifest.chain && (named->level > next || (named->level == next && !has_last))) {
        keep.push_back(bitmap.name);
      }
    }
  }
  return keep;
}

std::vector<BitmapName> bitmaps_kept_by_undo(const Manifest& manifest, const std::vector<Node>& nodes) {
  const Pending& pending = *manifest.pending;
  std::vector<BitmapName> keep = bitmaps_to_keep(manifest, nodes);
  if (pending.adopts) {  // then no other folder can have a newer level of this chain
    std::erase(keep, pending.bitmap);
  }
  for (const Node& node : nodes) {
    for (const Bitmap& bitmap : node.bitmaps) {
      const auto named = parse_chain_level(bitmap.name.value);
      if (named && named->chain == pending.chain && named->level > pending.level) {
        keep.push_back(bitmap.name);
      }
    }
  }
  return keep;
}

ByteCount granularity_of_next(const Manifest& manifest, const ChainId& chain) {
  constexpr std::size_t kMostDoublings = 5;
  return kGranularity << (manifest.chain == chain ? std::min(manifest.stored_attempts, kMostDoublings) : 0);
}

bool has_bitmap_of(const std::vector<Node>& nodes, const std::optional<ChainId>& chain) {
  return chain && std::any_of(nodes.begin(), nodes.end(), [&](const Node& node) {
           return std::any_of(node.bitmaps.begin(), node.bitmaps.end(), [&](const Bitmap& bitmap) {
             const auto named = parse_chain_level(bitmap.name.value);
             return named && named->chain == *chain;
           });
         });
}

std::string names_of_our_bitmaps(const Node& node) {
  std::string names;
  for (const Bitmap& bitmap : node.bitmaps) {
    if (parse_chain_level(bitmap.name.value)) {
      names += (names.empty() ? "" : ", ") + bitmap.name.value;
    }
  }
  return names;
}

std::string why_size_is_wrong(const Node& node, const LevelRecord& last, std::optional<bool> marks_intact) {
  if (node.virtual_size < last.virtual_size) {
    return fmt::format("the disk has shrunk from {} to {} bytes", last.virtual_size, node.virtual_size);
  }
  if (node.virtual_size != last.virtual_size && node.driver != "qcow2") {
    return fmt::format("the disk has grown from {} to {} bytes, and a {} disk does not say what the new part holds",
                       last.virtual_size, node.virtual_size, node.driver);
  }
  if (node.virtual_size != last.virtual_size && may_show_old_data_when_grown(node, last)) {
    return fmt::format("the disk has grown from {} to {} bytes, and its clusters of {} may show old data there again",
                       last.virtual_size, node.virtual_size, format_size(node.cluster_size));
  }
  if (last.marks > 0 && marks_intact == false) {
    return fmt::format("the disk was shrunk and grown or rolled back, or its bitmap cleared, since level {}",
                       level_name(last.level));
  }
  return {};
}

bool has_known_marks(const LevelRecord& record) {
  return record.marks > 0 && record.marks == count_marks(record.virtual_size, record.marks_seed);
}

const LevelRecord* level_with_marks(const VmState& vm, const Disk& disk, const ChainOnDisk& chain) {
  const LevelRecord* last = chain.manifest ? chain.manifest->last() : nullptr;
  const Node* node = vm.find_node(disk.node);
  if (last == nullptr || node == nullptr || !vm.features.human_monitor || node->virtual_size < last->virtual_size ||
      !has_known_marks(*last)) {
    return nullptr;
  }
  const Bitmap* bitmap = node->find_bitmap(last->bitmap);
  return bitmap != nullptr && !bitmap->busy && !bitmap->inconsistent ? last : nullptr;
}

}  // namespace qmpbackup
