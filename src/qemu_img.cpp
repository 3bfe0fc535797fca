#include "qmpbackup/qemu_img.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include "qmpbackup/errors.hpp"
#include "qmpbackup/files.hpp"
#include "qmpbackup/process.hpp"

namespace qmpbackup {
namespace {

constexpr std::chrono::hours kLongest{24};  // reading a large level from a slow disk; a signal ends it at any time

/// The file at descriptor 3: its name may hold anything, and "backing": null keeps the rest of the chain out.
constexpr auto kLevelAlone =
    R"(json:{"driver":"qcow2","backing":null,"file":{"driver":"file","filename":"/dev/fd/3","locking":"off"}})";

void run_on_image(EventLoop& loop, const std::string& path, const std::vector<std::string>& argv,
                  const std::function<void(std::string_view)>& on_output) {
  const UniqueFd image = open_file(path, O_RDONLY);
  const ProcessResult result = run_process(loop, argv, image.get(), after(kLongest), on_output);
  if (result.exit_code != 0) {
    const std::string words = result.err.substr(0, result.err.find('\n'));
    throw Error(fmt::format("{} {} failed on {}: {}", argv.at(0), argv.at(1), path,
                            words.empty() ? fmt::format("exit code {}", result.exit_code) : words));
  }
}

}  // namespace

ImageMap map_image(EventLoop& loop, const std::string& path) {
  ImageMap map;
  run_on_image(loop, path, {"qemu-img", "map", "--output=json", kLevelAlone},
               [&](std::string_view piece) { map.add(piece); });
  return map;
}

void read_image(EventLoop& loop, const std::string& path, ByteCount virtual_size) {
  const std::string nowhere = fmt::format("driver=null-co,size={}", virtual_size);
  run_on_image(loop, path, {"qemu-img", "convert", "-n", "--target-image-opts", kLevelAlone, nowhere},
               [](std::string_view) {});
}

}  // namespace qmpbackup
