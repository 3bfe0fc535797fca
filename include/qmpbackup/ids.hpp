#pragma once

#include <compare>
#include <optional>
#include <string>
#include <string_view>

namespace qmpbackup {

/// A string with a meaning, so that two of them cannot be swapped.
template <class Tag>
struct Name {
  std::string value;

  auto operator<=>(const Name&) const = default;
  [[nodiscard]] bool starts_with(std::string_view prefix) const { return value.starts_with(prefix); }
};

using NodeName = Name<struct NodeTag>;      ///< a block node's node-name; at most 31 characters in QEMU
using BitmapName = Name<struct BitmapTag>;  ///< a dirty bitmap's name; at most 255 characters so that it can migrate
using JobId = Name<struct JobTag>;          ///< starts with a letter; letters, digits, `-`, `.`, `_`

/// The bitmap of the Go tool of the same name.
inline const BitmapName kForeignBitmap{"bitmap0"};

/// What every name that this program gives to something inside QEMU begins with.
inline constexpr std::string_view kPrefix = "qmpbackup-";

/// A level of a chain: -1 is the full backup, N >= 0 the incremental on top of level N-1.
struct Level {
  int number = -1;

  [[nodiscard]] bool is_full() const { return number < 0; }
  [[nodiscard]] Level next() const { return {number + 1}; }
  [[nodiscard]] Level previous() const { return {number - 1}; }
  auto operator<=>(const Level&) const = default;
};

inline constexpr Level kFullLevel{-1};

/// "full", "inc0", "inc1" ...: as it stands in file and bitmap names.
std::string level_name(Level level);

/// The inverse of level_name. Nothing for anything else ("inc01", "inc-1", "INC0").
std::optional<Level> parse_level_name(std::string_view name);

/// A chain's identity: a random UUID in lower case. It is a part of every name that the chain has inside QEMU.
class ChainId {
 public:
  /// Nothing unless `text` is a UUID in its usual form.
  static std::optional<ChainId> parse(std::string_view text);

  [[nodiscard]] const std::string& text() const { return text_; }
  auto operator<=>(const ChainId&) const = default;

 private:
  explicit ChainId(std::string text) : text_(std::move(text)) {}
  std::string text_;
};

/// What the bitmaps and jobs of a chain begin with: "qmpbackup-<uuid>-".
std::string chain_prefix(const ChainId& chain);
/// What the nodes of a chain begin with: "qmpbackup-" and the last 12 digits of the UUID (31 characters are all there
/// are).
std::string chain_node_prefix(const ChainId& chain);

BitmapName level_bitmap(const ChainId& chain, Level level);
JobId level_job(const ChainId& chain, Level level);
/// What the name of a level's bitmap or job says.
struct ChainLevel {
  ChainId chain;
  Level level;
};
/// Nothing for a name that this program does not give, even when it begins like one.
std::optional<ChainLevel> parse_chain_level(std::string_view name);
/// The level's qcow2 node, the file node below it, and the scratch node for marks.
NodeName target_node(const ChainId& chain);
NodeName target_file_node(const ChainId& chain);
NodeName scratch_node(const ChainId& chain);
/// Whether the text begins as the pattern is: any digit for each 0 in that, everything else as it stands there.
bool begins_like(std::string_view text, std::string_view pattern);
/// What `add-fd` notes beside each descriptor of a chain.
std::string descriptor_label(const ChainId& chain);

}  // namespace qmpbackup
