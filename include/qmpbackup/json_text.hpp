#pragma once

#include <nlohmann/json.hpp>

#include <string_view>

namespace qmpbackup {

/// Parses JSON that somebody else wrote. Returns a discarded value (is_discarded()) for what is no JSON, and for what
/// is nested deeper than 64: copying and printing recurse, and neither QEMU nor this program writes such things.
nlohmann::json parse_json(std::string_view text);

}  // namespace qmpbackup
