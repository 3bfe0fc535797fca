#include "qmpbackup/qemu_img.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdlib>

#include "qmpbackup/errors.hpp"
#include "qmpbackup/files.hpp"
#include "qmpbackup/process.hpp"

namespace qmpbackup {
namespace {

constexpr std::chrono::hours kLongest{24};  // reading a large level from a slow disk; a signal ends it at any time

/// The file at descriptor 3: its name may hold anything, and "backing": null keeps the rest of the chain out.
constexpr auto kLevelAlone =
    R"(json:{"driver":"qcow2","backing":null,"file":{"driver":"file","filename":"/dev/fd/3","locking":"off"}})";

ProcessResult run_on_image(EventLoop& loop, const std::string& path, const std::vector<std::string>& argv,
                           const Process::OnOutput& on_output) {
  const UniqueFd image = open_file(path, O_RDONLY);
  return run_process(loop, argv, image.get(), after(kLongest), on_output);
}

/// Copies an image to nowhere, which reads all of it.
std::vector<std::string> read_argv(const std::string& image, ByteCount virtual_size) {
  return {
      "qemu-img", "convert", "-n", "--target-image-opts", image, fmt::format("driver=null-co,size={}", virtual_size)};
}

void throw_if_failed(const ProcessResult& result, std::string_view command, const std::string& path) {
  if (result.exit_code != 0) {
    const std::string words = result.err.substr(0, result.err.find('\n'));
    throw Error(fmt::format("qemu-img {} failed on {}: {}", command, path,
                            words.empty() ? fmt::format("exit code {}", result.exit_code) : words));
  }
}

}  // namespace

std::optional<double> convert_progress(std::string_view piece) {
  const auto open = piece.rfind('(');
  const auto slash = open == std::string_view::npos ? open : piece.find('/', open);
  if (slash == std::string_view::npos) {
    return std::nullopt;
  }
  return std::strtod(std::string(piece.substr(open + 1, slash - open - 1)).c_str(), nullptr) / 100;
}

std::string chain_image(const std::vector<std::string>& paths) {
  nlohmann::json image = nullptr;
  for (const std::string& path : paths) {
    image = {{"driver", "qcow2"}, {"backing", std::move(image)}, {"file", {{"driver", "file"}, {"filename", path}}}};
  }
  return "json:" + image.dump();
}

ImageMap map_image(EventLoop& loop, const std::string& path) {
  ImageMap map;
  throw_if_failed(run_on_image(loop, path, {"qemu-img", "map", "--output=json", kLevelAlone},
                               [&](std::string_view piece) { map.add(piece); }),
                  "map", path);
  return map;
}

void check_image(EventLoop& loop, const std::string& path) {
  constexpr int kOnlyLeaks = 3;  // qemu-img(1)
  std::string words;
  ProcessResult result =
      run_on_image(loop, path, {"qemu-img", "check", "-q", kLevelAlone}, [&](std::string_view piece) {
        words += piece.substr(0, 4 * kKiB - std::min<std::size_t>(words.size(), 4 * kKiB));
      });
  if (result.exit_code != kOnlyLeaks) {
    result.err = result.err.empty() ? words : result.err;
    throw_if_failed(result, "check", path);
  }
}

void read_image(EventLoop& loop, const std::string& path, ByteCount virtual_size) {
  throw_if_failed(run_on_image(loop, path, read_argv(kLevelAlone, virtual_size), [](std::string_view) {}), "convert",
                  path);
}

void read_chain_image(EventLoop& loop, const std::vector<std::string>& paths, ByteCount virtual_size) {
  const auto argv = read_argv(chain_image(paths), virtual_size);
  throw_if_failed(run_process(loop, argv, -1, after(kLongest), [](std::string_view) {}), "convert", paths.back());
}

}  // namespace qmpbackup
