// The judge of the crash suite: what the disk held at each level's point in time, whoever commits the level in the end.
#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace qmpbackup::test {

// Reads the guest-visible content of an image, with its backing chain, by `qemu-img convert` alone.
// Throws std::runtime_error with qemu-img's words.
std::string restored_content(const std::filesystem::path& image);

// A level is known by its bitmap, whose name no two levels of any chain share: a level that a killed run began and a
// later run completes has the point in time of the first one.
class KnownLevels {
 public:
  // A later call for the same bitmap replaces the content: the level was taken back and is taken again.
  void remember(const std::string& bitmap, std::string content) { contents_[bitmap] = std::move(content); }
  // Nothing but the chain at another base counts from here on.
  void forget_all();

  // Judges the chain at `base` and all chains that were moved aside from there: each committed level must be restored
  // as it is known, and no level that was found committed once may be missing later. One line for each violation.
  std::vector<std::string> check(const std::filesystem::path& base);
  // The same in the middle of a run, before anybody could recover: what has a final name is complete.
  std::vector<std::string> check_unfinished(const std::filesystem::path& base) const;

  // A chain was moved or broken by the test itself: its levels may be missing.
  void expect_losses() { committed_.clear(); }

  // Levels restored and compared by this process.
  static int total_compared();

 private:
  std::string compare(const std::string& bitmap, const std::filesystem::path& file) const;
  void check_chain(const std::filesystem::path& base, std::set<std::string>& found,
                   std::vector<std::string>& violations) const;

  std::map<std::string, std::string> contents_;
  std::set<std::string> committed_;
};

// The chain at `base` first, then those moved aside: BASE.<time>/NAME.
std::vector<std::filesystem::path> chain_bases(const std::filesystem::path& base);
// The content of BASE.chain.json; an object without levels where there is none.
nlohmann::json read_manifest(const std::filesystem::path& base);
// The numbers of the levels in it.
std::vector<int> levels_in(const nlohmann::json& manifest);

}  // namespace qmpbackup::test
