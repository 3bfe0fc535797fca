// File names of a chain and their inverse, and what the files found say about a chain.
#include "qmpbackup/chain_files.hpp"

#include <gtest/gtest.h>

#include "qmpbackup/chain_on_disk.hpp"
#include "qmpbackup/errors.hpp"

namespace qmpbackup {
namespace {

const char* const kStrangeNames[] = {
    "drive0",       "a b c", "it's \"quoted\"", "100%s", "#1",      "vm1:disk", "Füße-バックアップ", "-inc", "x.full",
    "x.inc0.qcow2", "a\\b",  "tab\there",       "*?[]",  "json:{}", "nbd:host", "x.partial",         "..x",  "$HOME",
    "new\nline",    "x "};

TEST(ChainFiles, Append_Suffixes_To_The_Base_As_It_Is) {
  const ChainFiles files("/backup/vm1/drive0");
  EXPECT_EQ(files.folder(), "/backup/vm1");
  EXPECT_EQ(files.name(), "drive0");
  EXPECT_EQ(files.level_path(kFullLevel), "/backup/vm1/drive0.full.qcow2");
  EXPECT_EQ(files.level_path(Level{12}), "/backup/vm1/drive0.inc12.qcow2");
  EXPECT_EQ(files.partial_path(Level{0}), "/backup/vm1/drive0.inc0.qcow2.partial");
  EXPECT_EQ(files.manifest_path(), "/backup/vm1/drive0.chain.json");
  EXPECT_EQ(files.lock_path(), "/backup/vm1/drive0.lock");
  EXPECT_EQ(files.checksums_path(), "/backup/vm1/drive0.sha256");
  EXPECT_EQ(ChainFiles("x.qcow2").level_path(kFullLevel), "x.qcow2.full.qcow2");
}

TEST(ChainFiles, Know_Their_Folder_With_And_Without_A_Slash) {
  EXPECT_EQ(ChainFiles("drive0").folder(), ".");
  EXPECT_EQ(ChainFiles("drive0").level_path(kFullLevel), "drive0.full.qcow2");
  EXPECT_EQ(ChainFiles("/drive0").folder(), "/");
  EXPECT_EQ(ChainFiles("/drive0").level_path(kFullLevel), "/drive0.full.qcow2");
  EXPECT_EQ(ChainFiles("../b/drive0").folder(), "../b");
  EXPECT_EQ(ChainFiles("./drive0").in_folder("y"), "./y");
}

TEST(ChainFiles, Names_And_Their_Inverse_Agree_For_Any_Base) {
  for (const char* name : kStrangeNames) {
    for (const std::string folder : {"", "/backup/", "/a b/%d/"}) {
      const ChainFiles files(folder + name);
      EXPECT_EQ(files.name(), name);
      for (const int number : {-1, 0, 7, 1000}) {
        const Level level{number};
        EXPECT_EQ(files.level_of_file(files.level_file(level)), level) << name;
        EXPECT_EQ(files.level_of_partial(files.partial_file(level)), level) << name;
        EXPECT_FALSE(files.level_of_file(files.partial_file(level))) << name;
        EXPECT_FALSE(files.level_of_partial(files.level_file(level))) << name;
      }
    }
  }
}

TEST(ChainFiles, Take_No_File_Of_Another_Chain_For_Theirs) {
  const ChainFiles files("/backup/vm");
  for (const char* file :
       {"vm2.full.qcow2", "vm.full.full.qcow2", "vm.inc0.inc1.qcow2", "vm.inc01.qcow2", "vm.inc.qcow2", "vm.qcow2",
        "vm..qcow2", "vm.full.qcow2.bak", "vm.full.raw", ".full.qcow2", "vmXfull.qcow2", "VM.full.qcow2",
        "vm.chain.json", "vm.lock", "vm.full", "vm.full.qcow2.partial.partial", "vm.", "", "vm.full.qcow2.tmp"}) {
    EXPECT_FALSE(files.level_of_file(file)) << file;
    EXPECT_FALSE(files.level_of_partial(file)) << file;
  }
}

TEST(ChainFiles, Link_To_The_Level_Below_By_File_Name_Alone) {
  const ChainFiles files("/backup/drive0");
  EXPECT_EQ(files.backing_link(kFullLevel), "drive0.full.qcow2");
  EXPECT_EQ(files.backing_link(Level{3}), "drive0.inc3.qcow2");
}

TEST(ChainFiles, Protect_A_Colon_From_Being_Taken_For_A_Protocol) {
  EXPECT_EQ(ChainFiles("/backup/vm1:disk").backing_link(kFullLevel), "./vm1:disk.full.qcow2");
  EXPECT_EQ(ChainFiles("json:{}").backing_link(Level{0}), "./json:{}.inc0.qcow2");
  EXPECT_EQ(ChainFiles("/back:up/drive0").backing_link(kFullLevel), "drive0.full.qcow2");
}

TEST(ChainFiles, Refuse_A_Base_That_Names_No_File) {
  for (const std::string base : {"", "/", "/backup/", "backup//"}) {
    EXPECT_THROW(ChainFiles{base}, UsageError) << base;
  }
  EXPECT_THROW(ChainFiles(std::string("a\0b", 3)), UsageError);
}

TEST(ChainFiles, Refuse_Bytes_That_QMP_Cannot_Carry) {
  EXPECT_THROW(ChainFiles("/backup/\xff"), UsageError);
  EXPECT_THROW(ChainFiles("/back\xc3/drive0"), UsageError);
  EXPECT_THROW(ChainFiles("/backup/\xed\xa0\x80"), UsageError);  // a surrogate
  EXPECT_NO_THROW(ChainFiles("/backup/\xc3\xa4"));
}

TEST(ChainFiles, Refuse_A_Name_Too_Long_For_A_File_System_Before_Anything_Is_Made) {
  EXPECT_THROW(ChainFiles("/backup/" + std::string(250, 'x')), UsageError);
  const ChainFiles longest("/backup/" + std::string(207, 'x'));
  EXPECT_LE(longest.partial_file(Level{1'000'000}).size(), 255U);
  EXPECT_LE(longest.archived("20261122T020000Z").folder().size() - std::string("/backup/").size(), 255U);
  EXPECT_THROW(ChainFiles("/backup/" + std::string(208, 'x')), UsageError);
}

TEST(ChainFiles, Keep_Their_Names_Inside_An_Archive_Folder) {
  const ChainFiles archived = ChainFiles("/backup/vm1:disk").archived("20261122T020000Z");
  EXPECT_EQ(archived.folder(), "/backup/vm1:disk.20261122T020000Z");
  EXPECT_TRUE(archived.is_archived());
  EXPECT_FALSE(ChainFiles("/backup/vm1:disk").is_archived());
  EXPECT_FALSE(ChainFiles("vm1:disk").is_archived());
  EXPECT_FALSE(ChainFiles("/backup/vm1:disk.20261122T020000Z/vm2").is_archived());
  EXPECT_EQ(archived.level_path(Level{0}), "/backup/vm1:disk.20261122T020000Z/vm1:disk.inc0.qcow2");
  EXPECT_EQ(archived.backing_link(kFullLevel), "./vm1:disk.full.qcow2");
}

// A chain of a full and `incrementals` levels, as it would be found intact.
class FilesOfAChain : public testing::Test {
 protected:
  static LevelFile file(int number) {
    LevelFile found;
    found.level = Level{number};
    found.file_size = 1000;
    found.header = Qcow2Header{};
    found.header->version = 3;
    found.header->virtual_size = kMiB;
    found.header->backing_file = number < 0 ? "" : "d." + level_name(Level{number - 1}) + ".qcow2";
    found.modified = "2026-11-22T02:00:00Z";
    return found;
  }

  static LevelRecord record(int number) {
    LevelRecord made;
    made.level = Level{number};
    made.file = "d." + level_name(made.level) + ".qcow2";
    made.virtual_size = kMiB;
    made.file_size = 1000;
    made.time = "2026-11-21T02:00:00Z";
    return made;
  }

  FilesOfAChain() {
    for (const int number : {-1, 0, 1}) {
      chain_.files.push_back(file(number));
    }
    chain_.manifest =
        Manifest{.chain = id_, .vm = {}, .device = "d", .replaces = {}, .levels = {}, .pending = {}, .other = {}};
    chain_.manifest->levels = {record(-1), record(0), record(1)};
    chain_.manifest_state = ManifestState::kGood;
  }

  ChainFiles files_{"/backup/d"};
  ChainId id_ = *ChainId::parse("0b3c6f52-1d2e-4f60-8a9b-0123456789ab");
  ChainOnDisk chain_;
};

TEST_F(FilesOfAChain, Are_Without_Fault_When_They_Agree_With_The_Manifest) {
  EXPECT_FALSE(fault_of_chain(chain_, files_));
  chain_.files[1].header->backing_file = "./d.full.qcow2";
  chain_.files[2].header->backing_file = "/elsewhere/d.inc0.qcow2";
  EXPECT_FALSE(fault_of_chain(chain_, files_)) << "a folder in front does not matter";
}

TEST_F(FilesOfAChain, Show_Each_Kind_Of_Fault) {
  const auto fault_after = [&](auto&& break_it) {
    ChainOnDisk broken = chain_;
    break_it(broken);
    return fault_of_chain(broken, files_).value_or("none");
  };
  EXPECT_NE(fault_after([](ChainOnDisk& c) { c.files.erase(c.files.begin() + 1); }).find("d.inc0.qcow2 is gone"),
            std::string::npos);
  EXPECT_NE(fault_after([](ChainOnDisk& c) { c.files[0].header.reset(); }).find("d.full.qcow2"), std::string::npos);
  EXPECT_NE(fault_after([](ChainOnDisk& c) { c.files[2].header->corrupt = true; }).find("corrupt"), std::string::npos);
  EXPECT_NE(fault_after([](ChainOnDisk& c) { c.files[1].header->virtual_size = 5; }).find("5 bytes"),
            std::string::npos);
  EXPECT_NE(fault_after([](ChainOnDisk& c) { c.files[1].file_size = 999; }).find("999 bytes"), std::string::npos);
  EXPECT_NE(fault_after([](ChainOnDisk& c) { c.files[2].header->backing_file = "d.full.qcow2"; }).find("backing file"),
            std::string::npos);
  EXPECT_NE(fault_after([](ChainOnDisk& c) { c.files[0].header->backing_file = "base.qcow2"; }).find("backing file"),
            std::string::npos);
  EXPECT_NE(fault_after([](ChainOnDisk& c) { c.manifest->levels[1].file = "x.inc0.qcow2"; }).find("x.inc0.qcow2"),
            std::string::npos);
}

TEST_F(FilesOfAChain, Count_As_Backups_Unless_They_Are_One_Empty_Image) {
  EXPECT_TRUE(chain_.has_backups());
  ChainOnDisk image;
  EXPECT_FALSE(image.has_backups());
  image.files = {file(-1)};
  EXPECT_TRUE(image.has_backups());
  image.full_is_empty_image = true;
  EXPECT_FALSE(image.has_backups());
  image.files.push_back(file(0));
  EXPECT_TRUE(image.has_backups());
  ChainOnDisk damaged;
  damaged.manifest_state = ManifestState::kDamaged;
  EXPECT_TRUE(damaged.has_backups());
}

TEST_F(FilesOfAChain, Of_Another_Program_Are_Adopted_With_Its_Bitmap) {
  chain_.manifest.reset();
  chain_.manifest_state = ManifestState::kAbsent;
  chain_.files[1].header->backing_file = "/backup/d.full.qcow2";
  const Manifest adopted = adopt_chain(chain_, files_, id_, {"web1", "u"}, "drive0");
  ASSERT_EQ(adopted.levels.size(), 3U);
  EXPECT_EQ(adopted.device, "drive0");
  EXPECT_EQ(adopted.levels[2].file, "d.inc1.qcow2");
  EXPECT_EQ(adopted.levels[2].bitmap, kForeignBitmap);
  EXPECT_EQ(adopted.levels[2].virtual_size, kMiB);
  EXPECT_EQ(adopted.levels[2].marks, 0U);
}

TEST_F(FilesOfAChain, Of_Another_Program_Are_Not_Adopted_With_A_Gap_Or_A_Fault) {
  ChainOnDisk gap = chain_;
  gap.files.erase(gap.files.begin() + 1);
  EXPECT_THROW(adopt_chain(gap, files_, id_, {}, "d"), ChainError);
  ChainOnDisk no_full = chain_;
  no_full.files.erase(no_full.files.begin());
  EXPECT_THROW(adopt_chain(no_full, files_, id_, {}, "d"), ChainError);
  ChainOnDisk no_qcow2 = chain_;
  no_qcow2.files[1].header.reset();
  EXPECT_THROW(adopt_chain(no_qcow2, files_, id_, {}, "d"), ChainError);
  EXPECT_THROW(adopt_chain(ChainOnDisk{}, files_, id_, {}, "d"), ChainError);
}

TEST_F(FilesOfAChain, Give_The_Archive_Folder_The_Time_Of_The_Full) {
  EXPECT_EQ(compact_time("2026-11-22T02:00:00Z"), "20261122T020000Z");
  EXPECT_EQ(time_of_full(chain_, "now"), "2026-11-21T02:00:00Z");
  chain_.manifest.reset();
  EXPECT_EQ(time_of_full(chain_, "now"), "2026-11-22T02:00:00Z") << "no manifest: the file's own time";
  EXPECT_EQ(time_of_full(ChainOnDisk{}, "now"), "now");
}

}  // namespace
}  // namespace qmpbackup
