// What a scene must look like after a run.
#include <fmt/format.h>

#include <iterator>
#include <set>

#include "crash/scene.hpp"
#include "support/oracle.hpp"

namespace qmpbackup::test {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

void append(Violations& to, Violations from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

Violations Scene::recover_and_check(int runs) {
  Violations violations = known_.check_unfinished(base());
  for (int i = 0; i < runs; ++i) {
    change_disk(3);
    append(violations, run_and_check_auto());
  }
  return violations;
}

Violations Scene::run_and_check_auto() {
  const ProgramResult result = backup({"-inc", "auto"});
  if (result.exit_code != 0) {
    return {fmt::format("-inc auto exits with {}: {}", result.exit_code, result.err)};
  }
  Violations violations = check_settled();
  const json current = manifest();
  if (current.at("levels").empty()) {
    violations.push_back("-inc auto made no level");
    return violations;
  }
  const auto last = current.at("levels").back().at("file").get<std::string>();
  if (restored_content(folder_ / last) != content()) {
    violations.push_back(last + " is the last level, and not what the disk holds");
  }
  return violations;
}

Violations Scene::check_settled() {
  Violations violations = known_.check(base());
  append(violations, check_folder());
  append(violations, check_qemu());
  return violations;
}

Violations Scene::check_folder() const {
  Violations violations;
  for (const fs::path& chain : chain_bases(base())) {
    const std::string name = chain.filename().string();
    std::set<std::string> expected{name + ".chain.json", name + ".sha256", name + ".lock"};
    const json current = read_manifest(chain);
    for (const int level : levels_in(current)) {
      expected.insert(fmt::format("{}.{}.qcow2", name, level_name(level)));
    }
    if (current.contains("pending")) {
      violations.push_back(fmt::format("{} still has a run pending", chain.string()));
    }
    for (const auto& entry : fs::directory_iterator(chain.parent_path())) {
      if (!expected.contains(entry.path().filename().string()) && !entry.is_directory()) {
        violations.push_back("left over: " + entry.path().string());
      }
    }
  }
  return violations;
}

Violations Scene::check_qemu() {
  // QEMU 7.2 keeps showing removed descriptor sets until the VM runs.
  const bool shows_removed_sets = vm_.control().greeting().at("QMP").at("version").at("qemu").at("major") < 9;
  Violations violations = vm_.our_leftovers(shows_removed_sets && vm_.status() != "running" ? QemuVm::Fdsets::Ignore
                                                                                            : QemuVm::Fdsets::Count);
  for (std::string& leftover : violations) {
    leftover = "left over in QEMU: " + leftover;
  }
  const json current = manifest();
  const std::string wanted =
      current.at("levels").empty() ? "" : current.at("levels").back().at("bitmap").get<std::string>();
  bool found = wanted.empty();
  for (const json& bitmap : vm_.bitmaps(disk)) {
    const std::string name = bitmap.value("name", "");
    if (name == wanted && bitmap.at("recording") == true && bitmap.at("busy") == false &&
        !bitmap.value("inconsistent", false)) {
      found = true;
    } else {
      violations.push_back("left over in QEMU: bitmap " + bitmap.dump());
    }
  }
  if (!found) {
    violations.push_back("QEMU has no bitmap " + wanted);
  }
  return violations;
}

}  // namespace qmpbackup::test
