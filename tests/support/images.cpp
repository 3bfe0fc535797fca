#include "support/images.hpp"

#include <fstream>
#include <stdexcept>

#include "support/program.hpp"

namespace qmpbackup::test {

namespace fs = std::filesystem;

void make_image(const fs::path& path, const std::string& format, std::uint64_t size_bytes, const std::string& options) {
  std::vector<std::string> argv = {"qemu-img", "create", "-q", "-f", format};
  if (!options.empty()) {
    argv.insert(argv.end(), {"-o", options});
  }
  argv.insert(argv.end(), {path, std::to_string(size_bytes)});
  run_checked(argv);
}

void convert_to_raw(const fs::path& image, const std::string& format, const fs::path& raw_output) {
  run_checked({"qemu-img", "convert", "-U", "-f", format, "-O", "raw", image, raw_output});
}

std::string difference(const fs::path& raw_a, const fs::path& raw_b) {
  const auto size_a = fs::file_size(raw_a);
  const auto size_b = fs::file_size(raw_b);
  if (size_a != size_b) {
    return "sizes differ: " + std::to_string(size_a) + " and " + std::to_string(size_b) + " bytes";
  }
  const auto result = run_program({"qemu-img", "compare", "-q", "-f", "raw", "-F", "raw", raw_a, raw_b});
  if (result.exit_code == 0) {
    return "";
  }
  const auto detail = run_program({"cmp", raw_a, raw_b});
  return "bytes differ: " + detail.out + detail.err + result.err;
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(file ? fs::file_size(path) : 0, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file) {
    throw std::runtime_error("cannot read " + path.string());
  }
  return text;
}

void write_file(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  if (!file.flush()) {
    throw std::runtime_error("cannot write " + path.string());
  }
}

}  // namespace qmpbackup::test
