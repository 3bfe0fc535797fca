#include "qmpbackup/qemu_img.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdlib>

#include "qmpbackup/errors.hpp"
#include "qmpbackup/files.hpp"

namespace qmpbackup {
namespace {

/// The file at descriptor 3: its name may hold anything, and "backing": null keeps the rest of the chain out.
constexpr auto kLevelAlone =
    R"(json:{"driver":"qcow2","backing":null,"file":{"driver":"file","filename":"/dev/fd/3","locking":"off"}})";

/// Copies an image to nowhere, which reads all of it.
std::vector<std::string> read_argv(const std::string& image, ByteCount virtual_size) {
  return {"qemu-img",
          "convert",
          "-n",
          "-W",
          "-m",
          "16",
          "--target-image-opts",
          image,
          fmt::format("driver=null-co,size={}", virtual_size)};
}

std::vector<std::string> argv_of(ImageRun::Kind kind, ByteCount virtual_size) {
  switch (kind) {
    case ImageRun::Kind::kCheck:
      return {"qemu-img", "check", "-q", kLevelAlone};
    case ImageRun::Kind::kMap:
      return {"qemu-img", "map", "--output=json", kLevelAlone};
    case ImageRun::Kind::kRead:
      return read_argv(kLevelAlone, virtual_size);
  }
  return {};
}

/// Why qemu-img failed, in its words, without the json: name that it was given for an image.
std::string reason_of(const ProcessResult& result) {
  std::string reason = result.reason();
  constexpr std::string_view kEnd = "}': ";
  const auto end = reason.rfind(kEnd);
  if (end != std::string::npos && reason.find("'json:{") < end) {
    reason.erase(0, end + kEnd.size());
  }
  return reason;
}

void throw_if_failed(const ProcessResult& result, std::string_view command, const std::string& path,
                     const std::string& hint = {}) {
  if (result.exit_code != 0) {
    throw Error(fmt::format("qemu-img {} failed on {}: {}", command, path, reason_of(result)), hint);
  }
}

}  // namespace

std::string with_doubled_commas(const std::string& name) {
  std::string doubled;
  for (const char c : name) {
    doubled += c == ',' ? ",," : std::string(1, c);
  }
  return doubled;
}

std::optional<double> convert_progress(std::string_view piece) {
  const auto open = piece.rfind('(');
  const auto slash = open == std::string_view::npos ? open : piece.find('/', open);
  if (slash == std::string_view::npos) {
    return std::nullopt;
  }
  return std::strtod(std::string(piece.substr(open + 1, slash - open - 1)).c_str(), nullptr) / 100;
}

void make_image(EventLoop& loop, int file, const std::string& path, const ImageFormat& format, Deadline deadline) {
  std::string options = fmt::format("cluster_size={}", format.cluster_size);
  options += format.zstd ? ",compression_type=zstd" : "";  // the option is unknown before qemu-img 5.1
  std::vector<std::string> argv{"qemu-img", "create", "-q", "-f", "qcow2", "-o", options};
  if (!format.backing_link.empty()) {
    argv.insert(argv.end(), {"-u", "-F", "qcow2", "-b", format.backing_link});  // -u: it is not opened
  }
  argv.insert(argv.end(), {kInheritedFile, std::to_string(format.virtual_size)});
  ProcessResult result = run_process(loop, argv, file, deadline, [](std::string_view) {});
  // Where it fails it tries to remove /dev/fd/3, says that this failed, and only then why.
  const auto why = result.err.find("/dev/fd/3: ", result.err.find('\n'));
  result.err.erase(0, why == std::string::npos ? 0 : why + std::string_view("/dev/fd/3: ").size());
  throw_if_failed(result, "create", path,
                  format.zstd && result.err.find("compression") != std::string::npos
                      ? "qemu-img is older than QEMU and knows no zstd: update it, or use --compress zlib"
                      : "check the target's storage and free space, then try again");
}

std::string chain_image(const std::vector<std::string>& paths, BelowBy below_by) {
  constexpr std::size_t kOfItsOwn = 24;  // qemu-img's, and some room
  require_open_files(paths.size() + kOfItsOwn);
  nlohmann::json image = nullptr;
  for (const std::string& path : paths) {
    nlohmann::json level{{"driver", "qcow2"}, {"file", {{"driver", "file"}, {"filename", path}}}};
    if (below_by == BelowBy::kNames) {
      level["backing"] = std::move(image);
    }
    image = std::move(level);
  }
  return "json:" + image.dump();
}

ImageRun::ImageRun(EventLoop& loop, Kind kind, const std::string& path, ByteCount virtual_size)
    : kind_(kind),
      path_(path),
      process_(loop, argv_of(kind, virtual_size), open_file(path, O_RDONLY).get(), [this](std::string_view piece) {
        switch (kind_) {
          case Kind::kCheck:
            words_ += piece.substr(0, 4 * kKiB - std::min<std::size_t>(words_.size(), 4 * kKiB));
            break;
          case Kind::kMap:
            try {
              map_.add(piece);
            } catch (const Error& error) {  // for finish(): whoever polls the loop now may wait for something else
              problem_ = error.what();
            }
            break;
          case Kind::kRead:
            break;
        }
      }) {}

void ImageRun::finish() {
  constexpr int kOnlyLeaks = 3;  // qemu-img(1)
  ProcessResult result = process_.wait(after(kLongestWork));
  switch (kind_) {
    case Kind::kCheck:
      if (result.exit_code != kOnlyLeaks) {
        result.err = result.err.empty() ? words_ : result.err;
        throw_if_failed(result, "check", path_);
      }
      break;
    case Kind::kMap:
      throw_if_failed(result, "map", path_);
      if (!problem_.empty()) {
        throw Error(problem_);
      }
      break;
    case Kind::kRead:
      throw_if_failed(result, "convert", path_);
      break;
  }
}

ImageMap map_image(EventLoop& loop, const std::string& path) {
  ImageRun run(loop, ImageRun::Kind::kMap, path, 0);
  run.finish();
  return run.map();
}

void read_image(EventLoop& loop, const std::string& path, ByteCount virtual_size) {
  ImageRun(loop, ImageRun::Kind::kRead, path, virtual_size).finish();
}

void read_chain_image(EventLoop& loop, const std::vector<std::string>& paths, BelowBy below_by,
                      ByteCount virtual_size) {
  const auto argv = read_argv(chain_image(paths, below_by), virtual_size);
  throw_if_failed(run_process(loop, argv, -1, after(kLongestWork), [](std::string_view) {}), "convert", paths.back());
}

}  // namespace qmpbackup
