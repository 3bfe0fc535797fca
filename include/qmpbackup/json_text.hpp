#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <string_view>

namespace qmpbackup {

/// Parses JSON that somebody else wrote. Returns a discarded value (is_discarded()) for what is no JSON, and for what
/// is nested deeper than 64: copying and printing recurse, and neither QEMU nor this program writes such things.
nlohmann::json parse_json(std::string_view text);

/// The text under `key`; empty where `object` is none, or has no text there.
std::string text_of(const nlohmann::json& object, const char* key);

}  // namespace qmpbackup
