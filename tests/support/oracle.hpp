// The judge of every scenario: what the disk held at each committed level must come back, bit for bit.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "support/temp_folder.hpp"

namespace qmpbackup::test {

// "full" for -1, "inc0" for 0, ...
std::string level_name(int level);

// Judges one chain, BASE.full.qcow2, BASE.inc0.qcow2, ..., by its manifest BASE.chain.json.
class Oracle {
 public:
  explicit Oracle(std::filesystem::path base) : base_(std::move(base)) {}

  // Keeps a copy of `raw_content` as what the disk held at that level's point in time. A later call replaces it: a
  // level that was not committed may be taken again.
  void remember(int level, const std::filesystem::path& raw_content);
  // A new chain begins.
  void forget_all() { remembered_.clear(); }

  // Restores every committed level with qemu-img alone and compares. Returns what is wrong, one line each: a manifest
  // that cannot be read, a gap in the levels, a missing file, other bytes, another size, a level nothing is known of.
  std::vector<std::string> check_all() const;

  // The levels in the manifest, in its order; empty without a manifest. Throws when it cannot be parsed.
  std::vector<int> committed_levels() const;

  std::filesystem::path level_file(int level) const;
  std::filesystem::path manifest() const;

  // Levels restored and compared by all oracles of this process; printed at the end of the test program.
  static int total_compared();

 private:
  std::string check_level(int level) const;

  std::filesystem::path base_;
  TempFolder copies_;
  std::map<int, std::filesystem::path> remembered_;
};

}  // namespace qmpbackup::test
