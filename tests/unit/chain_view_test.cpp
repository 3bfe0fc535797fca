// A chain as somebody sees it who wants to restore: which levels are good, which one a time means, how it is listed.
#include "qmpbackup/chain_view.hpp"

#include <gtest/gtest.h>

#include <cstdlib>

#include "qmpbackup/clock.hpp"
#include "qmpbackup/errors.hpp"
#include "qmpbackup/table.hpp"

namespace qmpbackup {
namespace {

class ChainView : public testing::Test {
 protected:
  static LevelFile file(int number) {
    LevelFile found;
    found.level = Level{number};
    found.file_size = 1000;
    found.header = Qcow2Header{};
    found.header->virtual_size = kMiB;
    found.header->backing_file = number < 0 ? "" : "d." + level_name(Level{number - 1}) + ".qcow2";
    found.modified = "2026-11-2" + std::to_string(number + 1) + "T02:00:00Z";
    return found;
  }

  ChainView() {
    chain_.manifest = Manifest{.chain = *ChainId::parse("0b3c6f52-1d2e-4f60-8a9b-0123456789ab"),
                               .vm = {},
                               .device = "d",
                               .replaces = {},
                               .levels = {},
                               .pending = {},
                               .other = {}};
    chain_.manifest_state = ManifestState::kGood;
    for (const int number : {-1, 0, 1}) {
      chain_.files.push_back(file(number));
      LevelRecord record;
      record.level = Level{number};
      record.file = "d." + level_name(record.level) + ".qcow2";
      record.virtual_size = kMiB;
      record.file_size = 1000;
      record.time = file(number).modified;
      chain_.manifest->levels.push_back(record);
    }
  }

  std::vector<LevelView> view() const { return view_chain(chain_, files_); }

  ChainFiles files_{"/backup/d"};
  ChainOnDisk chain_;
};

TEST_F(ChainView, Shows_The_Levels_Of_The_Manifest_With_Their_Faults) {
  ASSERT_EQ(view().size(), 3U);
  EXPECT_TRUE(view()[2].from_manifest);
  EXPECT_FALSE(view()[2].fault);
  EXPECT_EQ(newest_good(view()), Level{1});
  chain_.files.erase(chain_.files.begin() + 1);
  ASSERT_EQ(view().size(), 3U);
  EXPECT_TRUE(view()[1].fault);
  EXPECT_FALSE(view()[2].fault) << "this file alone is sound";
  EXPECT_EQ(newest_good(view()), kFullLevel) << "but nothing restores past the gap";
  chain_.files.erase(chain_.files.begin());
  EXPECT_FALSE(newest_good(view()));
}

TEST_F(ChainView, Shows_Files_Beyond_An_Older_Copy_Of_The_Manifest) {
  chain_.files.push_back(file(2));
  chain_.files.push_back(file(4));
  ASSERT_EQ(view().size(), 6U);
  EXPECT_FALSE(view()[3].from_manifest || view()[3].fault);
  EXPECT_EQ(view()[4].fault, "d.inc3.qcow2 is gone");
  EXPECT_EQ(newest_good(view()), Level{2});
}

TEST_F(ChainView, Works_From_The_Files_When_The_Manifest_Is_Lost) {
  chain_.manifest.reset();
  chain_.manifest_state = ManifestState::kDamaged;
  ASSERT_EQ(view().size(), 3U);
  EXPECT_FALSE(view()[0].from_manifest);
  EXPECT_EQ(view()[1].record.file, "d.inc0.qcow2");
  EXPECT_EQ(view()[1].record.time, "2026-11-21T02:00:00Z");
  EXPECT_EQ(newest_good(view()), Level{1});
  chain_.files[1].header->backing_file = "other.qcow2";
  EXPECT_EQ(newest_good(view()), kFullLevel);
}

TEST_F(ChainView, Finds_A_Gap_Without_A_Manifest_Too) {
  chain_.manifest.reset();
  chain_.files.erase(chain_.files.begin() + 1);
  EXPECT_EQ(newest_good(view()), kFullLevel);
  chain_.files.erase(chain_.files.begin());
  EXPECT_FALSE(newest_good(view()));
}

TEST_F(ChainView, Takes_An_Empty_Image_For_No_Level) {
  ChainOnDisk image;
  image.files = {file(-1)};
  image.full_is_empty_image = true;
  EXPECT_TRUE(view_chain(image, files_).empty());
  EXPECT_FALSE(newest_good({}));
}

TEST_F(ChainView, A_Time_Means_The_Newest_Level_Not_After_It) {
  const auto level_at = [this](const std::string& at) {
    return view()[level_to_restore(chain_, files_, view(), std::nullopt, at)].record.level;
  };
  EXPECT_EQ(level_at("2026-11-20T02:00:00Z"), kFullLevel);
  EXPECT_EQ(level_at("2026-11-22T01:00:00Z"), Level{0});
  EXPECT_EQ(level_at("2030-01-01T00:00:00Z"), Level{1});
  EXPECT_THROW(level_at("2026-11-20T01:59:59Z"), ChainError);
}

TEST_F(ChainView, The_Newest_Level_Is_Restored_Unless_Another_One_Is_Wanted) {
  EXPECT_EQ(level_to_restore(chain_, files_, view(), std::nullopt, std::nullopt), 2U);
  EXPECT_EQ(level_to_restore(chain_, files_, view(), Level{0}, std::nullopt), 1U);
  EXPECT_THROW(level_to_restore(chain_, files_, view(), Level{2}, std::nullopt), ChainError);
  EXPECT_THROW(level_to_restore(chain_, files_, {}, std::nullopt, std::nullopt), ChainError);
}

TEST(ArchiveFolders, Are_Told_From_Everything_Else) {
  const ChainFiles files("/backup/d");
  EXPECT_EQ(files.time_of_archive("d.20261122T020000Z"), "20261122T020000Z");
  EXPECT_EQ(files.time_of_archive("d.20261122T020000Z-2"), "20261122T020000Z-2");
  for (const char* name :
       {"d", "d.", "d.20261122T020000", "d.2026112xT020000Z", "d.20261122T020000Z-", "d.20261122T020000Z-x",
        "d.20261122T020000Z2", "e.20261122T020000Z", "d.full.qcow2", "d.20261122T020000Z-1/.."}) {
    EXPECT_FALSE(files.time_of_archive(name)) << name;
  }
  EXPECT_EQ(ChainFiles::name_of_chain("d.chain.json"), "d");
  EXPECT_EQ(ChainFiles::name_of_chain("a b.full.qcow2"), "a b");
  for (const char* name : {"d.inc0.qcow2", ".chain.json", "d.full.qcow2.partial", "d.chain.json.tmp", "d.lock", ""}) {
    EXPECT_FALSE(ChainFiles::name_of_chain(name)) << name;
  }
}

class TypedTimes : public testing::Test {
 protected:
  void SetUp() override {
    ::setenv("TZ", "UTC-1", 1);  // POSIX: one hour ahead of UTC
    ::tzset();
  }
  void TearDown() override {
    ::unsetenv("TZ");
    ::tzset();
  }
};

TEST_F(TypedTimes, Are_Local_Unless_They_End_In_Z) {
  EXPECT_EQ(parse_time("2026-11-20 03:00"), "2026-11-20T02:00:00Z");
  EXPECT_EQ(parse_time("2026-11-20 03:00:07"), "2026-11-20T02:00:07Z");
  EXPECT_EQ(parse_time("2026-11-20T03:00"), "2026-11-20T02:00:00Z");
  EXPECT_EQ(parse_time("2026-11-20T02:00:00Z"), "2026-11-20T02:00:00Z");
  EXPECT_EQ(parse_time("2026-11-20T02:00Z"), "2026-11-20T02:00:00Z");
  EXPECT_EQ(parse_time("2026-11-20"), "2026-11-20T22:59:59Z") << "a day means all of it";
  EXPECT_TRUE(format_local("2026-11-20T02:00:00Z").starts_with("2026-11-20 03:00:00"));
  EXPECT_EQ(format_local("unknown"), "unknown");
}

TEST_F(TypedTimes, May_Say_Their_Zone) {
  EXPECT_EQ(parse_time("2026-11-20T02:00:00+01:00"), "2026-11-20T01:00:00Z");
  EXPECT_EQ(parse_time("2026-11-20 02:00:00 -0230"), "2026-11-20T04:30:00Z");
  EXPECT_EQ(parse_time("2026-11-20 02:00:00 UTC"), "2026-11-20T02:00:00Z");
  ::setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1);
  ::tzset();
  for (const char* utc :
       {"2026-11-20T02:00:00Z", "2026-07-20T02:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"}) {
    EXPECT_EQ(parse_time(format_local(utc)), utc) << "as list prints it: " << format_local(utc);
  }
}

TEST_F(TypedTimes, That_Make_No_Sense_Are_Refused) {
  for (const char* text : {"", "yesterday", "2026-13-01", "2026-11-20 25:00", "2026-11-20 03:00:00 EST", "20.11.2026",
                           "2026-11-20T02:00:00+1", "2026-11-20Z", "12:00"}) {
    EXPECT_FALSE(parse_time(text)) << text;
  }
}

TEST_F(TypedTimes, On_A_Day_That_Does_Not_Exist_Are_Refused) {
  EXPECT_FALSE(parse_time("2026-02-30"));
  EXPECT_FALSE(parse_time("2026-11-31 03:00"));
  EXPECT_FALSE(parse_time("2026-02-29T02:00:00Z"));
  EXPECT_TRUE(parse_time("2028-02-29T02:00:00Z"));
}

TEST(Tables, Align_By_Characters_And_End_Without_Spaces) {
  EXPECT_EQ(format_table({Align::kLeft, Align::kRight, Align::kLeft},
                         {{"name", "size", "x"}, {"Füße", "10", ""}, {"a", "1000000", "y"}}),
            (std::vector<std::string>{"name     size  x", "Füße       10", "a     1000000  y"}));
  EXPECT_TRUE(format_table({Align::kLeft}, {}).empty());
}

}  // namespace
}  // namespace qmpbackup
