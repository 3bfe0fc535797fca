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

std::string text_of(const nlohmann::json& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

}  // namespace qmpbackup
