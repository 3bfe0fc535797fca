// Where a run takes up what an earlier one left, and what a progress line says.
#include "qmpbackup/recovery.hpp"

#include <gtest/gtest.h>

#include "qmpbackup/progress.hpp"

namespace qmpbackup {
namespace {

using namespace std::chrono_literals;

TEST(Recovery, Fate_Of_A_Job_Is_Told_By_Its_Status_And_Error) {
  const auto fate = [](const char* status, std::optional<std::string> error) {
    const Job job{{"qmpbackup-x"}, "backup", status, 0, 0, std::move(error)};
    return fate_of(&job);
  };
  EXPECT_EQ(fate_of(nullptr), JobFate::kNone);
  for (const char* status : {"created", "running", "paused", "ready", "standby", "waiting", "pending", "aborting"}) {
    EXPECT_EQ(fate(status, {}), JobFate::kWorking) << status;
  }
  EXPECT_EQ(fate("concluded", {}), JobFate::kSucceeded);
  EXPECT_EQ(fate("concluded", "No space left on device"), JobFate::kFailed);
  EXPECT_EQ(fate("concluded", ""), JobFate::kFailed) << "an error without words is one";
}

// The whole table: every combination of facts.
Recovery expected(const RecoveryFacts& facts) {
  if (facts.verified) {
    return facts.partial_file || facts.final_file ? Recovery::kCommit : Recovery::kUndo;
  }
  if (!facts.partial_file || facts.job == JobFate::kNone || facts.job == JobFate::kFailed) {
    return Recovery::kUndo;
  }
  if (facts.job == JobFate::kWorking) {
    return Recovery::kWait;
  }
  return facts.target_node ? Recovery::kFlush : Recovery::kSync;
}

TEST(Recovery, Decides_Every_Row_Of_The_Table) {
  for (unsigned bits = 0; bits < 16; ++bits) {
    for (const JobFate job : {JobFate::kNone, JobFate::kWorking, JobFate::kSucceeded, JobFate::kFailed}) {
      const RecoveryFacts facts{.verified = (bits & 1U) != 0,
                                .job = job,
                                .target_node = (bits & 2U) != 0,
                                .partial_file = (bits & 4U) != 0,
                                .final_file = (bits & 8U) != 0};
      EXPECT_EQ(decide_recovery(facts), expected(facts)) << "bits " << bits << " job " << static_cast<int>(job);
    }
  }
}

TEST(Recovery, Knows_The_Stories_By_Heart) {
  RecoveryFacts facts;
  EXPECT_EQ(decide_recovery(facts), Recovery::kUndo) << "killed right after the intent";
  facts.partial_file = true;
  EXPECT_EQ(decide_recovery(facts), Recovery::kUndo) << "killed before the transaction";
  facts.target_node = true;
  facts.job = JobFate::kWorking;
  EXPECT_EQ(decide_recovery(facts), Recovery::kWait) << "killed while copying";
  facts.job = JobFate::kSucceeded;
  EXPECT_EQ(decide_recovery(facts), Recovery::kFlush) << "killed before the flush";
  facts.target_node = false;
  EXPECT_EQ(decide_recovery(facts), Recovery::kSync) << "killed after the flush";
  facts.verified = true;
  EXPECT_EQ(decide_recovery(facts), Recovery::kCommit) << "killed before the rename";
  facts.partial_file = false;
  facts.final_file = true;
  EXPECT_EQ(decide_recovery(facts), Recovery::kCommit) << "killed after the rename";
  facts.job = JobFate::kNone;
  EXPECT_EQ(decide_recovery(facts), Recovery::kCommit) << "and QEMU too";
}

TEST(Recovery, Never_Finishes_A_Level_That_QEMU_May_Not_Have_Written_Out) {
  // QEMU was killed during or after the copy: no job is left to say that the file is complete.
  EXPECT_EQ(decide_recovery({.verified = false, .job = JobFate::kNone, .partial_file = true}), Recovery::kUndo);
  EXPECT_EQ(decide_recovery({.verified = false, .job = JobFate::kNone, .final_file = true}), Recovery::kUndo);
}

const Progress::TimePoint kStart{};

TEST(ProgressModel, Rate_Is_That_Of_The_Last_Seconds_And_Not_Of_The_Whole_Run) {
  Progress progress("drive0", "", kStart);
  EXPECT_EQ(progress.bytes_per_second(), 0U);
  EXPECT_FALSE(progress.remaining());
  for (int second = 1; second <= 60; ++second) {
    progress.update(static_cast<ByteCount>(second) * kMiB, 1000 * kMiB, kStart + std::chrono::seconds(second));
  }
  EXPECT_EQ(progress.bytes_per_second(), kMiB);
  EXPECT_EQ(progress.remaining(), 940s);
  for (int second = 61; second <= 70; ++second) {
    progress.update((60 + 10 * static_cast<ByteCount>(second - 60)) * kMiB, 1000 * kMiB,
                    kStart + std::chrono::seconds(second));
  }
  EXPECT_EQ(progress.bytes_per_second(), 10 * kMiB);
}

TEST(ProgressModel, First_Sample_Counts_From_The_Start) {
  Progress progress("drive0", "", kStart);
  progress.update(4 * kMiB, 8 * kMiB, kStart + 2s);
  EXPECT_EQ(progress.bytes_per_second(), 2 * kMiB);
  EXPECT_EQ(progress.remaining(), 2s);
}

TEST(ProgressModel, Standing_Still_Is_Noticed_And_Has_No_Remaining_Time) {
  Progress progress("drive0", "", kStart);
  progress.update(kMiB, 8 * kMiB, kStart + 1s);
  for (int second = 2; second <= 20; ++second) {
    progress.update(kMiB, 8 * kMiB, kStart + std::chrono::seconds(second));
  }
  EXPECT_EQ(progress.stalled_for(kStart + 21s), 20s);
  EXPECT_EQ(progress.bytes_per_second(), 0U);
  EXPECT_FALSE(progress.remaining());
  progress.update(kMiB + 1, 8 * kMiB, kStart + 22s);
  EXPECT_EQ(progress.stalled_for(kStart + 22s), 0s);
}

TEST(ProgressModel, Survives_A_Total_That_Shrinks_And_A_Clock_That_Stands) {
  Progress progress("drive0", "", kStart);
  progress.update(8 * kMiB, 4 * kMiB, kStart);
  EXPECT_EQ(progress.bytes_per_second(), 0U);
  EXPECT_FALSE(progress.remaining());
  progress.update(2 * kMiB, 4 * kMiB, kStart + 1s);
  EXPECT_EQ(progress.bytes_per_second(), 0U);
  EXPECT_NE(progress_line(progress, 80).find(" 50%"), std::string::npos);
}

TEST(ProgressLine, Says_Percent_Bytes_Rate_And_Remaining_Time) {
  Progress progress("drive0", "", kStart);
  progress.update(0, 100 * kMiB, kStart);
  progress.update(42 * kMiB, 100 * kMiB, kStart + 2s);
  EXPECT_EQ(progress_line(progress, 80), "drive0   42%  42.0 MiB of 100.0 MiB  21.0 MiB/s  0:02 left");
  Progress checksum("drive0", "checksum", kStart);
  checksum.update(kMiB, kMiB, kStart + 1s);
  EXPECT_TRUE(progress_line(checksum, 80).starts_with("drive0 checksum  100%  1.0 MiB of 1.0 MiB"));
}

TEST(ProgressLine, Fits_Every_Width_And_Drops_The_Least_Important_First) {
  Progress progress("drive0", "", kStart);
  progress.update(42 * kMiB, 100 * kMiB, kStart + 2s);
  for (std::size_t width = 0; width <= 100; ++width) {
    EXPECT_LE(progress_line(progress, width).size(), width);
  }
  EXPECT_EQ(progress_line(progress, 40), "drive0   42%  42.0 MiB of 100.0 MiB");
}

TEST(ProgressLine, Is_Sane_Before_Anything_Is_Known) {
  const Progress progress("drive0", "", kStart);
  EXPECT_TRUE(progress_line(progress, 80).starts_with("drive0    0%  0 B of 0 B"));
}

TEST(Durations, Read_Like_A_Person_Says_Them) {
  EXPECT_EQ(format_seconds(0.306), "0.31 s");
  EXPECT_EQ(format_seconds(59.4), "59.40 s");
  EXPECT_EQ(format_seconds(125), "2 min 05 s");
  EXPECT_EQ(format_seconds(3599.7), "1 h 00 min");
  EXPECT_EQ(format_seconds(3720), "1 h 02 min");
}

}  // namespace
}  // namespace qmpbackup
