#include "qmpbackup/mark_check.hpp"

#include <fmt/format.h>

#include "qmpbackup/backup_commands.hpp"
#include "qmpbackup/bitmap_marks.hpp"
#include "qmpbackup/errors.hpp"
#include "qmpbackup/level_bitmap.hpp"

namespace qmpbackup {
namespace {

const Bitmap& bitmap_on(const std::vector<Node>& nodes, const NodeName& node, const BitmapName& bitmap) {
  for (const Node& candidate : nodes) {
    const Bitmap* found = candidate.name == node ? candidate.find_bitmap(bitmap) : nullptr;
    if (found != nullptr) {
      return *found;
    }
  }
  throw Error(fmt::format("QEMU lost the bitmap {} of its node {}", bitmap.value, node.value));
}

}  // namespace

void make_marks(Session& session, const NodeName& scratch, const BitmapName& name, ByteCount marked_size,
                std::uint64_t seed) {
  for (const QmpCommand& command : add_marks(scratch, name, marked_size, seed)) {
    session.client.execute(command);
  }
  // The human monitor reports its errors as text alone, so look at what became of it.
  if (bitmap_on(query_nodes(session), scratch, name).dirty != count_marks(marked_size, seed) * kGranularity) {
    throw Error("QEMU's human monitor did not write the marks of a bitmap (qemu-io)");
  }
}

bool all_marks_are_there(const std::vector<Node>& nodes, const NodeName& scratch) {
  return bitmap_on(nodes, scratch, kCopy).dirty == bitmap_on(nodes, scratch, kUnion).dirty;
}

std::optional<bool> look_at_marks(Session& session, const VmState& vm, const Disk& disk, const ChainOnDisk& chain) {
  const LevelRecord* level = level_with_marks(vm, disk, chain);
  if (level == nullptr) {
    return std::nullopt;
  }
  const EventLoop::Shield shield(session.loop);
  const NodeName scratch = scratch_node(chain.manifest->chain);
  try {
    session.client.execute(add_scratch_node(scratch, vm.find_node(disk.node)->virtual_size));
    make_marks(session, scratch, kOldMarks, level->virtual_size, level->marks_seed);
    session.client.execute(transaction(compare_with_marks(scratch, kOldMarks, disk.node, level->bitmap)));
    const bool intact = all_marks_are_there(query_nodes(session), scratch);
    session.client.execute(delete_node(scratch));
    return intact;
  } catch (const ConnectError&) {
    throw;
  } catch (const Error&) {
    remove_leftovers(session, {chain.manifest->chain}, bitmaps_to_keep(*chain.manifest, vm.nodes));
    throw;
  }
}

}  // namespace qmpbackup
