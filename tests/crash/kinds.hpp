// The three kinds of run that the crash tests break.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "crash/scene.hpp"

namespace qmpbackup::test {

enum class Kind { Full, Incremental, NewFullOverBrokenChain };

inline const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::Full:
      return "Full";
    case Kind::Incremental:
      return "Incremental";
    case Kind::NewFullOverBrokenChain:
      return "NewFullOverBrokenChain";
  }
  return "";
}

inline std::string kind_name(const testing::TestParamInfo<Kind>& info) {
  return name_of(info.param);
}

inline std::vector<std::string> arguments_of(Kind kind) {
  return kind == Kind::Full ? std::vector<std::string>{} : std::vector<std::string>{"-inc", "auto"};
}

// Makes what a run of that kind must find. Check it with ASSERT_NO_FATAL_FAILURE.
inline void prepare(Scene& scene, Kind kind) {
  constexpr std::size_t kLongChain = 5;
  switch (kind) {
    case Kind::Full:
      scene.new_chain();
      return;
    case Kind::Incremental:
      if (const auto levels = scene.levels(); levels.empty() || levels.size() > kLongChain) {
        scene.new_chain();
        ASSERT_EQ(scene.backup({}).exit_code, 0);
      }
      return;
    case Kind::NewFullOverBrokenChain:
      if (scene.levels().empty() || chain_bases(scene.base()).size() > 2) {
        scene.new_chain();
        ASSERT_EQ(scene.backup({}).exit_code, 0);
        ASSERT_EQ(scene.backup({"-inc", "0"}).exit_code, 0);
      }
      scene.remove_bitmaps();
      return;
  }
}

}  // namespace qmpbackup::test
