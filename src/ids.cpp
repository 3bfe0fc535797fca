#include "qmpbackup/ids.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace qmpbackup {

std::string level_name(Level level) {
  return level.is_full() ? "full" : fmt::format("inc{}", level.number);
}

std::optional<Level> parse_level_name(std::string_view name) {
  if (name == "full") {
    return kFullLevel;
  }
  if (!name.starts_with("inc")) {
    return std::nullopt;
  }
  name.remove_prefix(3);
  int number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  const Level level{number};
  constexpr int kMost = 1'000'000'000;  // so that there is always a next one
  if (error != std::errc{} || number < 0 || number > kMost || end != name.data() + name.size() ||
      level_name(level).substr(3) != name) {
    return std::nullopt;
  }
  return level;
}

std::optional<ChainId> ChainId::parse(std::string_view text) {
  if (text.size() != 36) {
    return std::nullopt;
  }
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool dash_place = i == 8 || i == 13 || i == 18 || i == 23;
    const bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
    if (dash_place ? c != '-' : !hex) {
      return std::nullopt;
    }
  }
  return ChainId(std::string(text));
}

std::string chain_prefix(const ChainId& chain) {
  return fmt::format("{}{}-", kPrefix, chain.text());
}

std::string chain_node_prefix(const ChainId& chain) {
  return fmt::format("{}{}", kPrefix, chain.text().substr(chain.text().size() - 12));
}

BitmapName level_bitmap(const ChainId& chain, Level level) {
  return {chain_prefix(chain) + level_name(level)};
}
JobId level_job(const ChainId& chain, Level level) {
  return {chain_prefix(chain) + level_name(level)};
}

std::optional<ChainLevel> parse_chain_level(std::string_view name) {
  constexpr std::size_t kUuid = 36;
  const auto chain = name.starts_with(kPrefix) ? ChainId::parse(name.substr(kPrefix.size(), kUuid)) : std::nullopt;
  if (!chain || !name.starts_with(chain_prefix(*chain))) {
    return std::nullopt;
  }
  const auto level = parse_level_name(name.substr(chain_prefix(*chain).size()));
  return level ? std::optional(ChainLevel{*chain, *level}) : std::nullopt;
}

NodeName target_node(const ChainId& chain) {
  return {chain_node_prefix(chain) + "-target"};
}
NodeName target_file_node(const ChainId& chain) {
  return {chain_node_prefix(chain) + "-file"};
}
NodeName scratch_node(const ChainId& chain) {
  return {chain_node_prefix(chain) + "-marks"};
}
bool begins_like(std::string_view text, std::string_view pattern) {
  return text.size() >= pattern.size() &&
         std::equal(pattern.begin(), pattern.end(), text.begin(),
                    [](char expected, char c) { return expected == '0' ? c >= '0' && c <= '9' : c == expected; });
}

std::string descriptor_label(const ChainId& chain) {
  return chain_prefix(chain) + "target";
}

}  // namespace qmpbackup
