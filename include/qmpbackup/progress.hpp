#pragma once

#include <chrono>
#include <deque>
#include <optional>
#include <string>

#include "qmpbackup/sizes.hpp"

namespace qmpbackup {

/// How far a copy is, and how fast: a rate over the last few seconds. Pure: the caller brings the time.
class Progress {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  /// `activity`: what is done besides copying, as in "checksum"; empty for the copy itself.
  Progress(std::string device, std::string activity, TimePoint start)
      : device_(std::move(device)), activity_(std::move(activity)), start_(start), last_moved_(start) {}

  void update(ByteCount done, ByteCount total, TimePoint now);

  [[nodiscard]] const std::string& device() const { return device_; }
  [[nodiscard]] const std::string& activity() const { return activity_; }
  [[nodiscard]] ByteCount done() const { return done_; }
  [[nodiscard]] ByteCount total() const { return total_; }
  [[nodiscard]] ByteCount bytes_per_second() const;
  [[nodiscard]] std::optional<std::chrono::seconds> remaining() const;
  /// How long `done` has not changed.
  [[nodiscard]] std::chrono::steady_clock::duration stalled_for(TimePoint now) const { return now - last_moved_; }

 private:
  struct Sample {
    TimePoint at;
    ByteCount done;
  };

  std::string device_;
  std::string activity_;
  TimePoint start_;
  TimePoint last_moved_;
  ByteCount done_ = 0;
  ByteCount total_ = 0;
  std::deque<Sample> window_;
};

/// "drive0  42%  1.9 GiB of 4.5 GiB  512.3 MiB/s  0:05 left", at most `width` columns.
std::string progress_line(const Progress& progress, std::size_t width);

/// "0.31 s", "2 min 05 s", "1 h 02 min".
std::string format_seconds(double seconds);

}  // namespace qmpbackup
