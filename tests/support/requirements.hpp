// What a test needs on the machine. Something missing skips the test with a reason; with QMPBACKUP_REQUIRE_QEMU=1 it
// fails instead, so that CI cannot go green by skipping.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <optional>
#include <string>

#include "support/temp_folder.hpp"

namespace qmpbackup::test {

// Where `name` is on $PATH; a name with a slash is taken as a path. nullopt if there is no such executable file.
std::optional<std::filesystem::path> find_program(const std::string& name);

// $QMPBACKUP_TEST_QEMU, or qemu-system-x86_64.
std::string vm_binary();

// Each says what is missing, or returns an empty string.
std::string missing_program(const std::string& name);
std::string missing_qemu();  // the VM binary or qemu-img

// QMPBACKUP_REQUIRE_QEMU=1.
bool skipping_is_failure();

}  // namespace qmpbackup::test

// For the body of a test or SetUp(): `reason` is a string expression, empty when all is well.
#define QMPBACKUP_REQUIRE(reason)                                              \
  do {                                                                         \
    const std::string missing_reason = (reason);                               \
    if (!missing_reason.empty() && ::qmpbackup::test::skipping_is_failure()) { \
      FAIL() << missing_reason;                                                \
    }                                                                          \
    if (!missing_reason.empty()) {                                             \
      GTEST_SKIP() << missing_reason;                                          \
    }                                                                          \
  } while (false)

#define QMPBACKUP_REQUIRE_QEMU() QMPBACKUP_REQUIRE(::qmpbackup::test::missing_qemu())
#define QMPBACKUP_REQUIRE_PROGRAM(name) QMPBACKUP_REQUIRE(::qmpbackup::test::missing_program(name))
#define QMPBACKUP_REQUIRE_TMPFS(folder) QMPBACKUP_REQUIRE((folder).problem())
