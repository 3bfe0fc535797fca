#include "qmpbackup/clock.hpp"

#include <fmt/format.h>

#include <array>
#include <random>

namespace qmpbackup {

std::string format_utc(std::time_t time) {
  std::tm parts{};
  gmtime_r(&time, &parts);
  std::array<char, 32> text{};
  const std::size_t size = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return {text.data(), size};
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
