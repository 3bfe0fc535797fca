#include "qmpbackup/progress.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "qmpbackup/table.hpp"

namespace qmpbackup {
namespace {

constexpr std::chrono::seconds kWindow{5};
constexpr std::size_t kShortestLabel = 16;

double seconds_between(Progress::TimePoint from, Progress::TimePoint to) {
  return std::chrono::duration<double>(to - from).count();
}

std::string clock_time(std::chrono::seconds time) {
  const auto s = time.count();
  return s >= 3600 ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
                   : fmt::format("{}:{:02}", s / 60, s % 60);
}

}  // namespace

void Progress::update(ByteCount done, ByteCount total, TimePoint now) {
  if (done != done_) {
    last_moved_ = now;
  }
  done_ = done;
  total_ = total;
  window_.push_back({now, done});
  while (window_.size() > 2 && now - window_.front().at > kWindow) {
    window_.pop_front();
  }
}

ByteCount Progress::bytes_per_second() const {
  const Sample first = window_.size() > 1 ? window_.front() : Sample{start_, 0};
  if (window_.empty()) {
    return 0;
  }
  const double seconds = seconds_between(first.at, window_.back().at);
  const ByteCount bytes = window_.back().done > first.done ? window_.back().done - first.done : 0;
  return seconds > 0 ? static_cast<ByteCount>(static_cast<double>(bytes) / seconds) : 0;
}

std::optional<std::chrono::seconds> Progress::remaining() const {
  const ByteCount rate = bytes_per_second();
  if (rate == 0 || total_ < done_) {
    return std::nullopt;
  }
  return std::chrono::seconds((total_ - done_) / rate);
}

std::string progress_line(const Progress& progress, std::size_t width) {
  const ByteCount done = std::min(progress.done(), progress.total());
  const double share = progress.total() == 0 ? 0 : static_cast<double>(done) / static_cast<double>(progress.total());
  // Rounded down: 100 % is said when nothing is left to do.
  std::string line =
      fmt::format("  {:3}%  {} of {}", static_cast<int>(100 * share), format_size(done), format_size(progress.total()));
  const std::string rate = fmt::format("  {}/s", format_size(progress.bytes_per_second()));
  const auto remaining = progress.remaining();
  const std::string left = remaining ? fmt::format("  {} left", clock_time(*remaining)) : std::string();
  std::string label = progress.device() + (progress.activity().empty() ? "" : " " + progress.activity());
  // A long name gives way to the figures.
  label =
      cut_to_width(label, std::max(kShortestLabel, width - std::min(width, line.size() + rate.size() + left.size())));
  for (const std::string& part : {rate, left}) {
    if (text_width(label) + line.size() + part.size() <= width) {
      line += part;
    }
  }
  return cut_to_width(label + line, width);
}

std::string format_seconds(double seconds) {
  if (seconds < 59.995) {  // which would print as 60.00
    return fmt::format("{:.2f} s", seconds);
  }
  const auto whole = static_cast<std::uint64_t>(std::llround(seconds));
  return whole < 3600 ? fmt::format("{} min {:02} s", whole / 60, whole % 60)
                      : fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
}

}  // namespace qmpbackup
