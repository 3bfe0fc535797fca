#include "qmpbackup/json_text.hpp"

#include <stdexcept>

namespace qmpbackup {

nlohmann::json parse_json(std::string_view text) {
  constexpr int kDeepest = 64;
  const auto refuse_depth = [](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    if (depth > kDeepest) {
      throw std::length_error("nested too deeply");
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text, refuse_depth, false);
  } catch (const std::length_error&) {
    return nlohmann::json(nlohmann::json::value_t::discarded);
  }
}

}  // namespace qmpbackup
