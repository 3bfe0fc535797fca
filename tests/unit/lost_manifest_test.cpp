// What can still be said of a chain whose manifest is lost: which level is gone, which bytes it should have.
#include <gtest/gtest.h>

#include "qmpbackup/chain_reader.hpp"
#include "qmpbackup/chain_view.hpp"
#include "qmpbackup/checksums.hpp"
#include "qmpbackup/errors.hpp"
#include "qmpbackup/files.hpp"
#include "qmpbackup/lock_note.hpp"

#include "support/images.hpp"
#include "support/temp_folder.hpp"

namespace qmpbackup {
namespace {

class LostManifest : public testing::Test {
 protected:
  void add(int number, int below) {
    LevelFile file;
    file.level = Level{number};
    file.header = Qcow2Header{};
    file.header->backing_file = number < 0 ? "" : files_.level_file(Level{below});
    file.modified = "2026-11-2" + std::to_string(number + 1) + "T02:00:00Z";
    chain_.files.push_back(file);
  }
  void write_line(Level level, const std::string& digits) {
    lines_ += digits + "  " + files_.level_file(level) + "\n";
    test::write_file(files_.checksums_path(), lines_);
  }

  test::TempFolder folder_;
  ChainFiles files_{folder_ / "d"};
  ChainOnDisk chain_;
  std::string lines_;
};

TEST_F(LostManifest, Level_That_A_Link_Names_Is_Shown_As_Gone) {
  add(-1, 0);
  add(1, 0);
  add(2, 1);
  const auto levels = view_chain(chain_, files_);
  ASSERT_EQ(levels.size(), 4U);
  EXPECT_EQ(levels[1].record.level, Level{0});
  EXPECT_EQ(levels[1].fault, "d.inc0.qcow2 is gone");
  EXPECT_FALSE(levels[2].fault) << "its own file is right";
  EXPECT_EQ(newest_good(levels), kFullLevel);
}

TEST_F(LostManifest, Full_That_Is_Gone_Is_Named) {
  add(0, -1);
  const auto levels = view_chain(chain_, files_);
  ASSERT_EQ(levels.size(), 2U);
  EXPECT_EQ(levels[0].fault, "d.full.qcow2 is gone");
  EXPECT_FALSE(newest_good(levels));
}

TEST_F(LostManifest, Note_In_The_Lock_Names_The_Chain_Of_The_Files_That_Are_There) {
  const ChainId id = *ChainId::parse("0b3c6f52-1d2e-4f60-8a9b-0123456789ab");
  EventLoop loop;
  const auto lost_id = [&] { return read_chain(loop, files_).lost_id; };
  for (const Level level : {kFullLevel, Level{0}}) {
    test::write_file(files_.level_path(level), "no matter what");
  }
  const std::string note = id.text() + " d.inc0.qcow2\n";
  for (const std::string& other :
       {std::string(), note.substr(0, note.size() - 1), note.substr(1), id.text() + "\n", id.text() + " e.inc0.qcow2\n",
        id.text() + " begun full\n", id.text() + " replaced\n"}) {
    test::write_file(files_.lock_path(), other);
    EXPECT_FALSE(lost_id()) << other;
  }
  test::write_file(files_.lock_path(), note);
  EXPECT_EQ(lost_id(), id);
  std::filesystem::remove(files_.level_path(Level{0}));
  EXPECT_FALSE(lost_id()) << "the chain went elsewhere";
}

TEST(LockNote, Keeps_The_Chain_That_Is_There_Beside_Those_That_Are_Not) {
  const ChainId old = *ChainId::parse("0b3c6f52-1d2e-4f60-8a9b-0123456789ab");
  const ChainId fresh = *ChainId::parse("99999999-1d2e-4f60-8a9b-0123456789ab");
  const std::string there = old.text() + " d.inc7.qcow2\n";
  const LockNote begun = with_begun(parse_lock_note(there), fresh, kFullLevel);
  EXPECT_EQ(format_lock_note(begun), there + fresh.text() + " begun full\n");
  EXPECT_EQ(parse_lock_note(format_lock_note(begun)).past.at(0).begun, kFullLevel);
  EXPECT_EQ(format_lock_note(without_past(begun, fresh)), there);
  EXPECT_EQ(format_lock_note(without_past(begun, old)), format_lock_note(begun));
  EXPECT_EQ(format_lock_note(with_begun(parse_lock_note(there), old, Level{8})), there) << "its own next level";

  Manifest manifest{.chain = fresh, .vm = {}, .device = "d"};
  manifest.replaces = {old};
  manifest.levels.emplace_back().file = "d.full.qcow2";
  const std::string committed = fresh.text() + " d.full.qcow2\n" + old.text() + " replaced\n";
  EXPECT_EQ(format_lock_note(with_newest_level(begun, manifest)), committed);
  EXPECT_EQ(format_lock_note(with_newest_level(parse_lock_note(committed), manifest)), committed);
  EXPECT_FALSE(parse_lock_note(committed).past.at(0).begun);
  const std::string half = committed + format_lock_note(begun).substr(std::min(committed.size(), there.size()));
  EXPECT_EQ(parse_lock_note(half).chain, fresh) << "killed before what was there was cut off";

  LockNote many;
  for (char digit = '0'; digit <= '9'; ++digit) {
    many = with_begun(many, *ChainId::parse(std::string(fresh.text()).replace(0, 1, 1, digit)), kFullLevel);
  }
  EXPECT_EQ(many.past.size(), 4U);
  EXPECT_EQ(many.past.back().chain, fresh) << "the newest ones";
}

TEST_F(LostManifest, Gap_In_The_Numbers_After_A_Merge_Is_None) {
  add(-1, 0);
  add(5, -1);
  add(6, 5);
  EXPECT_EQ(view_chain(chain_, files_).size(), 3U);
  EXPECT_EQ(newest_good(view_chain(chain_, files_)), Level{6});
}

TEST_F(LostManifest, Link_That_Points_Up_Or_Elsewhere_Invents_No_Level) {
  add(-1, 0);
  add(0, 7);
  add(1, 1);
  chain_.files.push_back(chain_.files.back());
  chain_.files.back().level = Level{2};
  chain_.files.back().header->backing_file = "other.inc1.qcow2";
  EXPECT_EQ(view_chain(chain_, files_).size(), 4U);
  EXPECT_EQ(newest_good(view_chain(chain_, files_)), kFullLevel);
}

TEST_F(LostManifest, Level_That_Has_The_One_Below_Read_As_Raw_Is_Of_No_Use) {
  add(-1, 0);
  add(0, -1);
  for (const char* format : {"qcow2", ""}) {
    chain_.files[1].header->backing_format = format;
    EXPECT_FALSE(view_chain(chain_, files_)[1].fault) << format;
  }
  chain_.files[1].header->backing_format = "raw";
  EXPECT_EQ(view_chain(chain_, files_)[1].fault,
            "d.inc0.qcow2 has QEMU read its backing file as 'raw', and that is qcow2");
}

TEST_F(LostManifest, Level_Of_A_Smaller_Disk_Is_Of_No_Use_Unless_Its_Checksum_Is_Known) {
  add(-1, 0);
  add(0, -1);
  chain_.files[0].header->virtual_size = kMiB;
  EXPECT_EQ(view_with_checksums(chain_, files_)[1].fault, "d.inc0.qcow2 holds a smaller disk than the level below");
  write_line(Level{0}, std::string(64, 'a'));
  EXPECT_FALSE(view_with_checksums(chain_, files_)[1].fault);
}

TEST_F(LostManifest, Level_That_Only_The_Checksums_Name_Is_Gone) {
  for (const int level : {-1, 0, 1}) {
    write_line(Level{level}, std::string(64, 'a'));
  }
  EXPECT_TRUE(view_with_checksums(chain_, files_).empty()) << "a chain that was deleted";
  add(-1, 0);
  add(0, -1);
  const auto levels = view_with_checksums(chain_, files_);
  ASSERT_EQ(levels.size(), 3U);
  EXPECT_EQ(levels[2].fault, "d.inc1.qcow2 is gone");
  EXPECT_EQ(newest_good(levels), Level{0});
}

TEST_F(LostManifest, Lines_Are_Read_That_Sha256sum_Would_Read) {
  add(-1, 0);
  for (const std::string& line :
       {std::string(64, 'a') + " *d.full.qcow2\n", std::string(64, 'A') + "  d.full.qcow2\n",
        std::string(64, 'a') + "  ./d.full.qcow2\n", std::string(64, 'a') + "  d.full.qcow2\r\n"}) {
    test::write_file(files_.checksums_path(), line);
    EXPECT_EQ(view_with_checksums(chain_, files_)[0].record.sha256, std::string(64, 'a')) << line;
  }
}

TEST_F(LostManifest, Level_Whose_Data_Lies_In_Another_File_Is_Of_No_Use) {
  add(-1, 0);
  chain_.files[0].header->data_elsewhere = true;
  EXPECT_EQ(view_chain(chain_, files_)[0].fault, "d.full.qcow2 keeps its data in another file");
}

TEST_F(LostManifest, Links_With_A_Folder_Or_A_Protocol_Are_Not_Followed) {
  add(-1, 0);
  add(0, -1);
  EXPECT_TRUE(links_stay_in_folder(chain_, view_chain(chain_, files_)));
  chain_.files[1].header->backing_file = "./d.full.qcow2";
  EXPECT_TRUE(links_stay_in_folder(chain_, view_chain(chain_, files_)));
  for (const char* link : {"/backup/d.full.qcow2", "../d.full.qcow2", "nbd:d.full.qcow2"}) {
    chain_.files[1].header->backing_file = link;
    EXPECT_FALSE(links_stay_in_folder(chain_, view_chain(chain_, files_))) << link;
  }
}

TEST_F(LostManifest, Checksums_Come_From_The_File_For_Sha256sum) {
  add(-1, 0);
  add(0, -1);
  const std::string digits(64, 'a');
  write_line(Level{0}, digits);
  const auto levels = view_with_checksums(chain_, files_);
  EXPECT_FALSE(levels[0].record.sha256);
  EXPECT_EQ(levels[1].record.sha256, digits);
}

TEST_F(LostManifest, Lines_That_Are_No_Checksums_Are_Passed_Over) {
  add(-1, 0);
  for (const std::string& digits : {std::string(64, 'X'), std::string(63, 'a'), std::string(65, 'a'), std::string()}) {
    write_line(kFullLevel, digits);
  }
  lines_ = std::string(1000, '\0') + "\n\\\n" + std::string(64, 'a') + "\n";
  write_line(Level{0}, std::string(64, 'a'));
  EXPECT_FALSE(view_with_checksums(chain_, files_)[0].record.sha256);
}

TEST_F(LostManifest, Names_With_A_Newline_Or_Backslash_Are_Found_As_Sha256sum_Writes_Them) {
  files_ = ChainFiles(folder_ / "a\\b\nc");
  add(-1, 0);
  Manifest manifest{.chain = *ChainId::parse("0b3c6f52-1d2e-4f60-8a9b-0123456789ab"),
                    .vm = {},
                    .device = "d",
                    .replaces = {},
                    .levels = {record_from_file(chain_.files[0], files_)},
                    .pending = {}};
  manifest.levels[0].sha256 = std::string(64, 'b');
  write_checksums(files_, manifest);
  EXPECT_EQ(view_with_checksums(chain_, files_)[0].record.sha256, std::string(64, 'b'));
}

TEST_F(LostManifest, Times_Of_Files_That_Are_Not_In_Order_Choose_No_Level) {
  add(-1, 0);
  add(0, -1);
  const auto choose = [this] {
    return level_to_restore(chain_, files_, view_chain(chain_, files_), std::nullopt, "2027-06-01T00:00:00Z");
  };
  EXPECT_EQ(choose(), 1U);
  chain_.files[0].modified = "2027-01-01T00:00:00Z";
  EXPECT_THROW(choose(), ChainError);
}

TEST(NewNames, Are_Never_Taken_From_Somebody) {
  const test::TempFolder folder;
  const std::string from = folder / "from";
  const std::string to = folder / "to";
  test::write_file(from, "new");
  test::write_file(to, "precious");
  EXPECT_THROW(rename_to_new_durably(from, to), FileError);
  EXPECT_EQ(test::read_file(to), "precious");
  EXPECT_EQ(test::read_file(from), "new");
  remove_durably(to);
  rename_to_new_durably(from, to);
  EXPECT_EQ(test::read_file(to), "new");
  EXPECT_FALSE(exists(from));
}

TEST(FileInfos, Tell_Links_And_Files_That_Others_May_Write) {
  const test::TempFolder folder;
  const std::string file = folder / "file";
  test::write_file(file, "x");
  std::filesystem::permissions(file, std::filesystem::perms(0600));
  EXPECT_FALSE(regular_file_info(file)->others_may_write);
  std::filesystem::permissions(file, std::filesystem::perms(0620));
  EXPECT_TRUE(regular_file_info(file)->others_may_write);
  EXPECT_FALSE(regular_file_info(file)->is_link);
  std::filesystem::create_symlink("file", folder / "link");
  EXPECT_TRUE(regular_file_info(folder / "link")->is_link);
}

}  // namespace
}  // namespace qmpbackup
