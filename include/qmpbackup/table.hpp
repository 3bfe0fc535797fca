#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace qmpbackup {

enum class Align { kLeft, kRight };

/// Columns that a text takes, counted in UTF-8 characters.
std::size_t text_width(std::string_view text);

/// The front of a text, at most `width` columns; no character is cut in two.
std::string cut_to_width(std::string_view text, std::size_t width);

/// Lines of a table with columns of equal width, two spaces apart. The first row is the heading. No trailing spaces.
/// Widths count UTF-8 characters.
std::vector<std::string> format_table(const std::vector<Align>& columns,
                                      const std::vector<std::vector<std::string>>& rows);

}  // namespace qmpbackup
