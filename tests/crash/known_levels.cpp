#include "crash/known_levels.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "support/images.hpp"
#include "support/oracle.hpp"
#include "support/program.hpp"
#include "support/temp_folder.hpp"

namespace qmpbackup::test {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

int levels_compared = 0;

fs::path level_path(const fs::path& base, int level) {
  return fmt::format("{}.{}.qcow2", base.string(), level_name(level));
}

std::size_t first_difference(const std::string& a, const std::string& b) {
  return static_cast<std::size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
}

}  // namespace

std::string restored_content(const fs::path& image) {
  static const TempFolder folder;
  const fs::path raw = folder / "restored.raw";
  run_checked({"qemu-img", "convert", "-O", "raw", image, raw});
  return read_file(raw);
}

std::vector<fs::path> chain_bases(const fs::path& base) {
  std::vector<fs::path> bases{base};
  const std::string name = base.filename().string();
  for (const auto& entry : fs::directory_iterator(base.parent_path())) {
    if (entry.is_directory() && entry.path().filename().string().starts_with(name + ".")) {
      bases.push_back(entry.path() / name);
    }
  }
  std::sort(bases.begin() + 1, bases.end());
  return bases;
}

json read_manifest(const fs::path& base) {
  const fs::path path = base.string() + ".chain.json";
  return fs::exists(path) ? json::parse(read_file(path)) : json{{"levels", json::array()}};
}

std::vector<int> levels_in(const json& manifest) {
  std::vector<int> levels;
  for (const json& entry : manifest.at("levels")) {
    levels.push_back(entry.at("level").get<int>());
  }
  return levels;
}

void KnownLevels::forget_all() {
  contents_.clear();
  committed_.clear();
}

int KnownLevels::total_compared() {
  return levels_compared;
}

std::string KnownLevels::compare(const std::string& bitmap, const fs::path& file) const {
  if (!fs::exists(file)) {
    return fmt::format("{} is committed and missing", file.string());
  }
  const auto known = contents_.find(bitmap);
  if (known == contents_.end()) {
    return fmt::format("{} is committed, and nobody saw its transaction ({})", file.string(), bitmap);
  }
  try {
    const std::string content = restored_content(file);
    ++levels_compared;
    if (content == known->second) {
      return "";
    }
    return fmt::format("{}: {} bytes instead of {}, which differ from byte {} on", file.string(), content.size(),
                       known->second.size(), first_difference(content, known->second));
  } catch (const std::runtime_error& error) {
    return fmt::format("{} cannot be restored: {}", file.string(), error.what());
  }
}

void KnownLevels::check_chain(const fs::path& base, std::set<std::string>& found,
                              std::vector<std::string>& violations) const {
  const json manifest = read_manifest(base);
  int expected = -1;
  for (const json& entry : manifest.at("levels")) {
    const int level = entry.at("level").get<int>();
    const fs::path file = base.parent_path() / entry.at("file").get<std::string>();
    const std::string bitmap = entry.at("bitmap").get<std::string>();
    const bool wrong_place = level != expected;
    expected = std::max(level, level < 0 ? manifest.value("merged", -1) : level) + 1;
    if (wrong_place || file != level_path(base, level)) {
      violations.push_back(fmt::format("{}: the manifest has {} here", base.string(), entry.dump()));
    }
    if (std::string problem = compare(bitmap, file); !problem.empty()) {
      violations.push_back(std::move(problem));
    }
    found.insert(bitmap);
  }
}

std::vector<std::string> KnownLevels::check(const fs::path& base) {
  std::vector<std::string> violations;
  std::set<std::string> found;
  for (const fs::path& chain : chain_bases(base)) {
    try {
      check_chain(chain, found, violations);
    } catch (const std::exception& error) {
      violations.push_back(fmt::format("{}: {}", chain.string(), error.what()));
    }
  }
  for (const std::string& bitmap : committed_) {
    if (!found.contains(bitmap)) {
      violations.push_back(fmt::format("the level of {} was committed and is in no manifest any more", bitmap));
    }
  }
  committed_ = std::move(found);
  return violations;
}

std::vector<std::string> KnownLevels::check_unfinished(const fs::path& base) const {
  std::vector<std::string> violations;
  const auto report = [&](std::string problem) {
    if (!problem.empty()) {
      violations.push_back("before recovery: " + std::move(problem));
    }
  };
  try {
    const json manifest = read_manifest(base);
    const json pending = manifest.value("pending", json());
    const bool moves = pending.is_object() && pending.contains("archive") && pending.at("archive").is_string();
    const auto problems_at = [&](const fs::path& place) {
      std::vector<std::string> problems;
      for (const json& entry : manifest.at("levels")) {
        const fs::path file = level_path(place, entry.at("level").get<int>());
        if (std::string problem = compare(entry.at("bitmap").get<std::string>(), file); !problem.empty()) {
          problems.push_back(std::move(problem));
        }
      }
      return problems;
    };
    auto problems = problems_at(base);
    if (moves && !problems.empty()) {  // all of them are in the one folder, or all in the other
      problems =
          problems_at(fs::path(base.string() + "." + pending.at("archive").get<std::string>()) / base.filename());
    }
    std::ranges::for_each(problems, report);
    if (pending.is_object() && !moves) {
      if (const fs::path file = level_path(base, pending.at("level").get<int>()); fs::exists(file)) {
        report(compare(pending.at("bitmap").get<std::string>(), file));
      }
    }
  } catch (const std::exception& error) {
    report(fmt::format("{}: {}", base.string(), error.what()));
  }
  return violations;
}

}  // namespace qmpbackup::test
