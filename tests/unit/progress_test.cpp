// The moving line: what it says at the ends, and how it fits a terminal.
#include "qmpbackup/progress.hpp"

#include <gtest/gtest.h>

#include "qmpbackup/table.hpp"

namespace qmpbackup {
namespace {

using std::chrono::seconds;

Progress::TimePoint at(int second) {
  return Progress::TimePoint{} + seconds(second);
}

TEST(ProgressLine, Says_100_Percent_Only_When_Nothing_Is_Left) {
  Progress progress("drive0", {}, at(0));
  progress.update(9999, 10000, at(1));
  EXPECT_NE(progress_line(progress, 80).find(" 99%"), std::string::npos) << progress_line(progress, 80);
  progress.update(10000, 10000, at(2));
  EXPECT_NE(progress_line(progress, 80).find("100%"), std::string::npos);
}

TEST(ProgressLine, Fits_Any_Width_And_Never_Cuts_A_Character) {
  std::string name;
  for (int i = 0; i < 60; ++i) {
    name += "ü";
  }
  Progress progress(name, "checksum", at(0));
  progress.update(1 * kGiB, 100 * kGiB, at(10));
  for (std::size_t width = 0; width < 160; ++width) {
    const std::string line = progress_line(progress, width);
    EXPECT_LE(text_width(line), width);
    EXPECT_EQ(cut_to_width(line, 1000), line);
    const auto last = static_cast<unsigned char>(line.empty() ? ' ' : line.back());
    EXPECT_TRUE(last < 0x80 || (last & 0xC0) == 0x80) << "the first byte alone of a character, at width " << width;
  }
}

TEST(ProgressLine, Shortens_A_Long_Name_Before_It_Drops_A_Figure) {
  Progress progress(std::string(100, 'x'), {}, at(0));
  progress.update(1 * kGiB, 100 * kGiB, at(10));
  const std::string line = progress_line(progress, 80);
  for (const char* part : {"  1%", "1.0 GiB of 100.0 GiB", "/s", " left"}) {
    EXPECT_NE(line.find(part), std::string::npos) << line;
  }
}

TEST(Seconds, Never_Print_As_60) {
  EXPECT_EQ(format_seconds(59.99), "59.99 s");
  EXPECT_EQ(format_seconds(59.996), "1 min 00 s");
  EXPECT_EQ(format_seconds(0.314), "0.31 s");
  EXPECT_EQ(format_seconds(3599.7), "1 h 00 min");
}

TEST(Widths, Count_Characters) {
  EXPECT_EQ(text_width("Füße"), 4U);
  EXPECT_EQ(cut_to_width("Füße", 2), "Fü");
  EXPECT_EQ(cut_to_width("Füße", 0), "");
  EXPECT_EQ(cut_to_width("Füße", 9), "Füße");
}

}  // namespace
}  // namespace qmpbackup
