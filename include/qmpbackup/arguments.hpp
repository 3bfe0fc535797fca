#pragma once

#include <string>
#include <vector>

namespace qmpbackup {

/// Rewrites the command line of the Go tool, whose flags have one dash or two and any value behind them (`-inc -1`,
/// `-v=false`), into the form that CLI11 understands: `--inc=-1`, `--v=false`. Only the known names are touched, and
/// each stands for itself wherever it is. `arguments` are without the program's name. Throws UsageError when a flag's
/// value is missing, or looks like an option and stands apart from its flag.
std::vector<std::string> rewrite_arguments(const std::vector<std::string>& arguments);

/// `text` as a shell would need it typed: quoted only where it has to be.
std::string shell_quoted(const std::string& text);

}  // namespace qmpbackup
