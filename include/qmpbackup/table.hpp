#pragma once

#include <string>
#include <vector>

namespace qmpbackup {

enum class Align { kLeft, kRight };

/// Lines of a table with columns of equal width, two spaces apart. The first row is the heading. No trailing spaces.
/// Widths count UTF-8 characters.
std::vector<std::string> format_table(const std::vector<Align>& columns,
                                      const std::vector<std::vector<std::string>>& rows);

}  // namespace qmpbackup
