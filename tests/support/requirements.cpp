#include "support/requirements.hpp"

#include <unistd.h>

#include <cstdlib>
#include <sstream>

namespace qmpbackup::test {

namespace fs = std::filesystem;

namespace {

std::string environment_or(const char* name, const std::string& otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

bool is_executable(const fs::path& path) {
  return fs::is_regular_file(path) && ::access(path.c_str(), X_OK) == 0;
}

}  // namespace

std::optional<fs::path> find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) {
    return is_executable(name) ? std::optional<fs::path>(name) : std::nullopt;
  }
  std::istringstream folders(environment_or("PATH", "/usr/local/bin:/usr/bin:/bin"));
  for (std::string folder; std::getline(folders, folder, ':');) {
    if (const auto candidate = fs::path(folder) / name; is_executable(candidate)) {
      return candidate;
    }
  }
  return std::nullopt;
}

std::string vm_binary() {
  return environment_or("QMPBACKUP_TEST_QEMU", "qemu-system-x86_64");
}

std::string missing_program(const std::string& name) {
  return find_program(name) ? "" : name + " is not installed";
}

std::string missing_qemu() {
  const auto reason = missing_program(vm_binary());
  return reason.empty() ? missing_program("qemu-img") : reason;
}

bool skipping_is_failure() {
  return environment_or("QMPBACKUP_REQUIRE_QEMU", "") == "1";
}

}  // namespace qmpbackup::test
