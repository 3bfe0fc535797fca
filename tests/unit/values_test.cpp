// Sizes, ids, checksums and marks: the small types that everything else is made of.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <limits>
#include <set>

#include "qmpbackup/bitmap_marks.hpp"
#include "qmpbackup/ids.hpp"
#include "qmpbackup/sha256.hpp"
#include "qmpbackup/sizes.hpp"

namespace qmpbackup {
namespace {

constexpr ByteCount kMost = std::numeric_limits<ByteCount>::max();

TEST(Sizes, Parse_Takes_Bytes_And_Binary_Units_In_Either_Case) {
  EXPECT_EQ(parse_size("0"), 0U);
  EXPECT_EQ(parse_size("65536"), 65536U);
  EXPECT_EQ(parse_size("64K"), 64 * kKiB);
  EXPECT_EQ(parse_size("64k"), 64 * kKiB);
  EXPECT_EQ(parse_size("64KiB"), 64 * kKiB);
  EXPECT_EQ(parse_size("3m"), 3 * kMiB);
  EXPECT_EQ(parse_size("2G"), 2 * kGiB);
  EXPECT_EQ(parse_size("1T"), 1024 * kGiB);
}

TEST(Sizes, Parse_Refuses_Everything_Else) {
  for (const char* text : {"", " ", "K", "-1", "+1", " 1", "1 ", "1 K", "1.5G", "1KB", "1Ki", "1KiBs", "0x10", "1e3",
                           "1KK", "one", "1,000", "1P", "\xe2\x84\xaa"}) {
    EXPECT_FALSE(parse_size(text)) << "'" << text << "'";
  }
}

TEST(Sizes, Parse_Refuses_What_Does_Not_Fit_Instead_Of_Wrapping) {
  EXPECT_EQ(parse_size("18446744073709551615"), kMost);
  EXPECT_FALSE(parse_size("18446744073709551616"));
  EXPECT_EQ(parse_size("18014398509481983K"), kMost - 1023);
  EXPECT_FALSE(parse_size("18014398509481984K"));
  EXPECT_EQ(parse_size("16777215T"), ByteCount{16777215} << 40);
  EXPECT_FALSE(parse_size("16777216T"));
  EXPECT_FALSE(parse_size("99999999999999999999999999"));
}

TEST(Sizes, Format_Has_One_Decimal_And_Never_1024_Of_A_Unit) {
  EXPECT_EQ(format_size(0), "0 B");
  EXPECT_EQ(format_size(1023), "1023 B");
  EXPECT_EQ(format_size(1024), "1.0 KiB");
  EXPECT_EQ(format_size(26738688), "25.5 MiB");
  EXPECT_EQ(format_size(kMiB - 1), "1.0 MiB");
  EXPECT_EQ(format_size(kGiB - 1), "1.0 GiB");
  EXPECT_EQ(format_size(kMiB + 512), "1.0 MiB");
  EXPECT_EQ(format_size(kMost), "16.0 EiB");
}

TEST(Sizes, Whole_Units_Survive_Format_And_Parse) {
  for (const ByteCount size : {kKiB, 64 * kKiB, kMiB, 512 * kMiB, kGiB, 1000 * kGiB}) {
    std::string text = format_size(size);
    text.erase(text.find(".0 "), 3);
    EXPECT_EQ(parse_size(text), size) << text;
  }
}

TEST(Sizes, Round_Up_Goes_To_The_Next_Multiple) {
  EXPECT_EQ(round_up(0, 512), 0U);
  EXPECT_EQ(round_up(1, 512), 512U);
  EXPECT_EQ(round_up(512, 512), 512U);
  EXPECT_EQ(round_up(kMiB + 512, kMiB), 2 * kMiB);
}

TEST(BitmapNames, Tell_Their_Chain) {
  const ChainId chain = *ChainId::parse("0b3c6f52-1d2e-4f60-8a9b-0123456789ab");
  const auto named = parse_chain_level(level_bitmap(chain, Level{3}).value);
  ASSERT_TRUE(named);
  EXPECT_EQ(named->chain, chain);
  EXPECT_EQ(named->level, Level{3});
  for (const char* other : {"", "bitmap0", "qmpbackup-", "qmpbackup-0b3c6f52-1d2e-4f60-8a9b-0123456789ab",
                            "xqmpbackup-0b3c6f52-1d2e-4f60-8a9b-0123456789ab-full", "qmpbackup-0b3c6f52-full",
                            "qmpbackup-0b3c6f52-1d2e-4f60-8a9b-0123456789ab-mine", "qmpbackup-mine"}) {
    EXPECT_FALSE(parse_chain_level(other)) << other;
  }
}

TEST(Levels, Names_And_Their_Inverse_Agree) {
  for (const int number : {-1, 0, 1, 9, 10, 99, 1'000'000, 1'000'000'000}) {
    const Level level{number};
    EXPECT_EQ(parse_level_name(level_name(level)), level) << level_name(level);
  }
  EXPECT_FALSE(parse_level_name("inc2147483647")) << "there is no next one";
  EXPECT_EQ(level_name(kFullLevel), "full");
  EXPECT_EQ(level_name(kFullLevel.next()), "inc0");
  EXPECT_EQ(Level{7}.previous(), Level{6});
}

TEST(Levels, Parse_Takes_Each_Level_In_One_Spelling_Only) {
  for (const char* name : {"", "inc", "inc01", "inc-1", "inc+1", "INC0", "Full", "full0", "inc1 ", " inc1", "inc1x",
                           "inc2147483648", "inc99999999999999999999", "inc0x1"}) {
    EXPECT_FALSE(parse_level_name(name)) << name;
  }
}

TEST(ChainIds, Parse_Takes_A_UUID_In_Lower_Case_Alone) {
  const std::string good = "0b3c6f52-1d2e-4f60-8a9b-0123456789ab";
  ASSERT_TRUE(ChainId::parse(good));
  EXPECT_EQ(ChainId::parse(good)->text(), good);
  for (const char* text : {"", "0b3c6f52-1d2e-4f60-8a9b-0123456789a", "0b3c6f52-1d2e-4f60-8a9b-0123456789abc",
                           "0B3C6F52-1D2E-4F60-8A9B-0123456789AB", "0b3c6f521d2e-4f60-8a9b-0123456789ab-",
                           "0b3c6f52-1d2e-4f60-8a9b-0123456789ag", "{b3c6f52-1d2e-4f60-8a9b-0123456789ab"}) {
    EXPECT_FALSE(ChainId::parse(text)) << text;
  }
}

class NamesInQemu : public testing::Test {
 protected:
  ChainId chain_ = *ChainId::parse("0b3c6f52-1d2e-4f60-8a9b-0123456789ab");
  ChainId other_ = *ChainId::parse("1b3c6f52-1d2e-4f60-8a9b-0123456789ac");
};

TEST_F(NamesInQemu, Carry_The_Level_And_The_Chain) {
  EXPECT_EQ(level_bitmap(chain_, kFullLevel).value, "qmpbackup-0b3c6f52-1d2e-4f60-8a9b-0123456789ab-full");
  EXPECT_EQ(level_bitmap(chain_, Level{3}).value, "qmpbackup-0b3c6f52-1d2e-4f60-8a9b-0123456789ab-inc3");
  EXPECT_EQ(level_job(chain_, Level{0}).value, "qmpbackup-0b3c6f52-1d2e-4f60-8a9b-0123456789ab-inc0");
  for (const std::string& name :
       {level_bitmap(chain_, Level{5}).value, level_job(chain_, Level{5}).value, descriptor_label(chain_)}) {
    EXPECT_TRUE(name.starts_with(chain_prefix(chain_))) << name;
    EXPECT_FALSE(name.starts_with(chain_prefix(other_))) << name;
  }
}

TEST_F(NamesInQemu, Nodes_Fit_Into_31_Characters_And_Differ) {
  const std::array nodes{target_node(chain_), target_file_node(chain_), scratch_node(chain_)};
  for (const NodeName& node : nodes) {
    EXPECT_LE(node.value.size(), 31U) << node.value;
    EXPECT_TRUE(node.starts_with(chain_node_prefix(chain_)));
    EXPECT_FALSE(node.starts_with(chain_node_prefix(other_)));
  }
  EXPECT_NE(nodes[0], nodes[1]);
  EXPECT_NE(nodes[1], nodes[2]);
  EXPECT_NE(nodes[0], nodes[2]);
}

TEST_F(NamesInQemu, The_Longest_Bitmap_Name_Can_Migrate) {
  EXPECT_LE(level_bitmap(chain_, Level{std::numeric_limits<int>::max()}).value.size(), 255U);
}

TEST(Sha256, Equals_Known_Vectors) {
  EXPECT_EQ(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

std::vector<std::pair<ByteCount, ByteCount>> ranges_of(ByteCount size, std::uint64_t seed = 0) {
  std::vector<std::pair<ByteCount, ByteCount>> ranges;
  for (const MarkedRange& range : marks_of(size, seed)) {
    ranges.emplace_back(range.offset, range.length);
  }
  return ranges;
}

TEST(Marks, Are_The_Last_MiB_And_Granules_Ever_Further_Before_It) {
  using Ranges = std::vector<std::pair<ByteCount, ByteCount>>;
  EXPECT_EQ(ranges_of(0), Ranges{});
  EXPECT_EQ(ranges_of(512), (Ranges{{0, 512}}));
  EXPECT_EQ(ranges_of(kMiB), (Ranges{{0, kMiB}}));
  EXPECT_EQ(ranges_of(kMiB + 512), (Ranges{{kGranularity, kMiB - kGranularity + 512}}));
  Ranges expected{{7 * kMiB, kMiB}};
  for (const ByteCount quarters : std::initializer_list<ByteCount>{27, 26, 25, 24, 22, 20, 18, 16, 12, 8, 4}) {
    expected.emplace_back(quarters * kMiB / 4, kGranularity);
  }
  EXPECT_EQ(ranges_of(8 * kMiB), expected);
  EXPECT_EQ(count_marks(8 * kGiB, 0), 67U);
  EXPECT_EQ(count_marks(8192 * kGiB, 0), 107U);
}

TEST(Marks, Lie_Inside_The_Disk_Whatever_Its_Size) {
  for (ByteCount size = 512; size < 32 * kMiB; size += 512 * 701) {
    const auto ranges = marks_of(size, 0);
    EXPECT_EQ(ranges.front().offset + ranges.front().length, size);
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      EXPECT_EQ(ranges[i].offset % kGranularity, 0U) << size;
      EXPECT_TRUE(i == 0 || ranges[i].offset + ranges[i].length <= ranges[i - 1].offset) << size;
    }
  }
  EXPECT_LE(count_marks(std::numeric_limits<ByteCount>::max(), 1), 200U);
}

TEST(Marks, Of_Two_Attempts_Differ_Though_Both_Have_Those_Of_The_Disk) {
  const ByteCount size = 8 * kGiB + 512;
  const auto of_disk = ranges_of(size);
  for (std::uint64_t seed = 1; seed < 100; ++seed) {
    auto ranges = ranges_of(size, seed);
    EXPECT_EQ(ranges.size(), of_disk.size() + 8) << seed;
    EXPECT_TRUE(std::equal(of_disk.begin(), of_disk.end(), ranges.begin()));
    EXPECT_NE(ranges, ranges_of(size, seed + 1));
    std::sort(ranges.begin(), ranges.end());
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      EXPECT_EQ(ranges[i].first % kGranularity, 0U);
      EXPECT_LE(ranges[i].first + ranges[i].second, i + 1 < ranges.size() ? ranges[i + 1].first : size) << seed;
    }
  }
  for (ByteCount small = 512; small < 3 * kMiB; small += 64 * kKiB) {  // where they fall upon each other
    std::set<std::pair<ByteCount, ByteCount>> once;
    for (const auto& range : ranges_of(small, small)) {
      EXPECT_TRUE(once.insert(range).second);
      EXPECT_LE(range.first + range.second, small);
    }
  }
}

}  // namespace
}  // namespace qmpbackup
