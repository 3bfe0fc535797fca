#include "qmpbackup/json_text.hpp"

#include <cstddef>

namespace qmpbackup {

namespace {

/// A callback of the parser would see the depth too, but makes it look at all elements before each: quadratic time.
bool is_nested_too_deeply(std::string_view text) {
  constexpr int kDeepest = 64;
  int depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size() && depth <= kDeepest; ++i) {
    const char c = text[i];
    if (quoted) {
      i += c == '\\' ? 1 : 0;
      quoted = c != '"';
    } else {
      quoted = c == '"';
      depth += c == '[' || c == '{' ? 1 : 0;
      depth -= c == ']' || c == '}' ? 1 : 0;
    }
  }
  return depth > kDeepest;
}

}  // namespace

nlohmann::json parse_json(std::string_view text) {
  return is_nested_too_deeply(text) ? nlohmann::json(nlohmann::json::value_t::discarded)
                                    : nlohmann::json::parse(text, nullptr, false);
}

std::string text_of(const nlohmann::json& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

}  // namespace qmpbackup
