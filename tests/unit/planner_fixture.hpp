// A VM with one disk `drive0` and a chain at /backup/drive0, all in order: each test changes one thing.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "qmpbackup/backup_commands.hpp"
#include "qmpbackup/bitmap_marks.hpp"
#include "qmpbackup/errors.hpp"

namespace qmpbackup::test {

inline const ChainId kChain = *ChainId::parse("0b3c6f52-1d2e-4f60-8a9b-0123456789ab");
inline const ChainId kFresh = *ChainId::parse("ffffffff-1d2e-4f60-8a9b-ba9876543210");

class PlannerTest : public testing::Test {
 protected:
  PlannerTest() {
    vm_.qemu_version = "7.2.22";
    vm_.features = {.backup_never_clears = true,
                    .reopen = true,
                    .flat_nodes = true,
                    .block_graph = true,
                    .descriptors = true,
                    .zstd = true,
                    .human_monitor = true,
                    .identity = true,
                    .migration = true};
    vm_.identity = {"web1", "12345678-1234-1234-1234-123456789abc"};
    vm_.status = "running";
    vm_.devices = {{"drive0", "/machine/peripheral/d0/virtio-backend", {"#block1"}}};
    vm_.edges = {{"drive0", "#block1", "root"}, {"#block1", "#block0", "file"}};
    Node node;
    node.name = {"#block1"};
    node.driver = "qcow2";
    node.file = "/vm/drive0.qcow2";
    node.virtual_size = kGiB;
    node.allocated = 100 * kMiB;
    node.stores_bitmaps = true;
    Node file;
    file.name = {"#block0"};
    file.driver = "file";
    vm_.nodes = {node, file};
    disk_.target.exists = true;
    disk_.target.writable = true;
    disk_.target.takes_direct_io = true;
    disk_.target.free_bytes = 10 * kGiB;
    disk_.target.absolute_path = "/backup";
    disk_.fdset_id = 77;
    disk_.now = "2026-11-23T02:00:00Z";
    disk_.request.command = "qmpbackup -socket S -backupFile /backup/drive0 -deviceToBackup drive0";
  }

  Node& node() { return vm_.nodes[0]; }
  Bitmap& last_bitmap() { return node().bitmaps.back(); }
  Manifest& manifest() { return *disk_.chain.manifest; }

  void ask(int level) { disk_.request.level = Level{level}; }
  void ask_auto() { disk_.request.level.reset(); }

  static LevelFile file_of(int number, ByteCount size = kGiB) {
    LevelFile file;
    file.level = Level{number};
    file.file_size = 1000;
    file.header = Qcow2Header{};
    file.header->version = 3;
    file.header->virtual_size = size;
    file.header->backing_file = number < 0 ? "" : "drive0." + level_name(Level{number - 1}) + ".qcow2";
    file.modified = "2026-11-20T02:00:00Z";
    return file;
  }

  static Bitmap bitmap_called(const BitmapName& name) {
    Bitmap bitmap;
    bitmap.name = name;
    bitmap.granularity = 64 * kKiB;
    bitmap.dirty = 2 * kMiB;
    bitmap.persistent = true;
    return bitmap;
  }

  // Levels -1 .. last, on disk and in the manifest, and the last one's bitmap on the node.
  void have_chain_up_to(int last) {
    disk_.chain = {};
    disk_.chain.manifest_state = ManifestState::kGood;
    disk_.chain.manifest = Manifest{.chain = kChain,
                                    .vm = vm_.identity,
                                    .device = "drive0",
                                    .replaces = {},
                                    .levels = {},
                                    .pending = {},
                                    .other = nlohmann::json::object()};
    for (int number = -1; number <= last; ++number) {
      LevelRecord record;
      record.level = Level{number};
      record.file = "drive0." + level_name(record.level) + ".qcow2";
      record.time = "2026-11-22T02:00:00Z";
      record.virtual_size = kGiB;
      record.file_size = 1000;
      record.bitmap = level_bitmap(kChain, record.level);
      record.marks = count_marks(kGiB, 0);
      manifest().levels.push_back(record);
      disk_.chain.files.push_back(file_of(number));
    }
    disk_.marks_intact = true;
    node().bitmaps = {bitmap_called(level_bitmap(kChain, Level{last}))};
  }

  // Files alone and `bitmap0`, as the Go tool leaves them.
  void have_foreign_chain_up_to(int last) {
    have_chain_up_to(last);
    disk_.chain.manifest.reset();
    disk_.chain.manifest_state = ManifestState::kAbsent;
    node().bitmaps = {bitmap_called(kForeignBitmap)};
  }

  void have_empty_image(ByteCount size) {
    disk_.chain = {};
    disk_.chain.files = {file_of(-1, size)};
    disk_.chain.full_is_empty_image = true;
  }

  BackupPlan plan() const { return plan_backup(vm_, {disk_}); }
  DiskPlan disk_plan() const { return plan().disks.at(0); }

  // What a refusal says, its hint included; the test fails when there is none of exactly this type.
  template <class Refusal>
  std::string refusal() const {
    try {
      plan();
    } catch (const Error& error) {
      EXPECT_EQ(typeid(error), typeid(Refusal)) << error.what();
      return std::string(error.what()) + "; " + error.hint();
    }
    ADD_FAILURE() << "not refused";
    return {};
  }

  VmState vm_;
  DiskCircumstances disk_{
      .request = {.device = "drive0", .files = ChainFiles("/backup/drive0")},
      .chain = {},
      .target = {},
      .fresh_id = kFresh,
  };
};

// EXPECT_REFUSED(ChainError, "words"): refused with exactly this type, and the words are in what it says.
#define EXPECT_REFUSED(type, words)                                               \
  do {                                                                            \
    const std::string said = refusal<type>();                                     \
    EXPECT_NE(said.find(words), std::string::npos) << "it says '" << said << "'"; \
  } while (false)

}  // namespace qmpbackup::test
