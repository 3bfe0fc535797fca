#include "qmpbackup/clock.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <random>

namespace qmpbackup {

namespace {

/// strptime takes 30 February.
bool is_a_day(const std::tm& parts) {
  const std::chrono::year_month_day day{std::chrono::year(parts.tm_year + 1900),
                                        std::chrono::month(static_cast<unsigned>(parts.tm_mon + 1)),
                                        std::chrono::day(static_cast<unsigned>(parts.tm_mday))};
  return day.ok();
}

}  // namespace

std::string format_utc(std::time_t time) {
  constexpr std::time_t kLast = 253402300799;  // of the year 9999: RFC 3339 goes no further
  time = std::clamp<std::time_t>(time, 0, kLast);
  std::tm parts{};
  gmtime_r(&time, &parts);
  std::array<char, 32> text{};
  const std::size_t size = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return {text.data(), size};
}

std::string format_local(const std::string& utc) {
  std::tm parts{};
  const char* end = ::strptime(utc.c_str(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  if (end == nullptr || *end != '\0') {
    return utc;
  }
  const std::time_t time = ::timegm(&parts);
  std::tm local{};
  localtime_r(&time, &local);
  std::array<char, 64> text{};
  const std::size_t size = std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S %Z", &local);
  return {text.data(), size};
}

namespace {

/// What format_local prints, with the zone's name: it tells the two hours apart that a clock shows twice in autumn.
std::optional<std::string> parse_printed_time(const std::string& text) {
  std::tm parts{};
  const char* zone = ::strptime(text.c_str(), "%Y-%m-%d %H:%M:%S ", &parts);
  if (zone == nullptr || *zone == '\0' || !is_a_day(parts)) {
    return std::nullopt;
  }
  for (const int summer : {0, 1}) {
    std::tm local = parts;
    local.tm_isdst = summer;
    std::string utc = format_utc(std::mktime(&local));
    if (format_local(utc) == text) {
      return utc;
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> parse_time(const std::string& text) {
  const auto matches = [&](const char* format, std::tm& parts) {
    parts = {};
    parts.tm_isdst = -1;
    const char* end = ::strptime(text.c_str(), format, &parts);
    return end != nullptr && *end == '\0' && is_a_day(parts);
  };
  std::tm parts{};
  for (const char* utc : {"%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ", "%Y-%m-%d %H:%M:%SZ", "%Y-%m-%d %H:%M:%S UTC"}) {
    if (matches(utc, parts)) {
      return format_utc(::timegm(&parts));
    }
  }
  for (const char* offset :
       {"%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M%z", "%Y-%m-%d %H:%M%z", "%Y-%m-%d %H:%M:%S%z", "%Y-%m-%d %H:%M:%S %z"}) {
    if (matches(offset, parts)) {
      const long east = parts.tm_gmtoff;  // timegm forgets it
      return format_utc(::timegm(&parts) - east);
    }
  }
  for (const char* local : {"%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M"}) {
    if (matches(local, parts)) {
      return format_utc(std::mktime(&parts));
    }
  }
  if (matches("%Y-%m-%d", parts)) {  // a day means all of it
    parts.tm_hour = 23;
    parts.tm_min = 59;
    parts.tm_sec = 59;
    return format_utc(std::mktime(&parts));
  }
  return parse_printed_time(text);
}

std::string now_utc() {
  return format_utc(std::time(nullptr));
}

ChainId random_chain_id() {
  std::random_device device;
  std::string hex;
  for (int i = 0; i < 4; ++i) {
    hex += fmt::format("{:08x}", device());
  }
  hex[12] = '4';                    // version 4: random
  hex[16] = "89ab"[(hex[16] & 3)];  // variant 1 (RFC 9562)
  return *ChainId::parse(fmt::format("{}-{}-{}-{}-{}", hex.substr(0, 8), hex.substr(8, 4), hex.substr(12, 4),
                                     hex.substr(16, 4), hex.substr(20, 12)));
}

int random_number() {
  std::random_device device;
  return static_cast<int>(device() >> 2) + 1;
}

}  // namespace qmpbackup
