// What a soak draws by lot.
#pragma once

#include <fmt/format.h>

#include <initializer_list>
#include <random>
#include <string>
#include <vector>

#include "crash/scene.hpp"

namespace qmpbackup::test {

inline constexpr std::uint64_t kRoom = 256 * MiB;  // of a tmpfs that is not full

inline SceneOptions random_world(std::mt19937_64& random, const std::string& qemu) {
  SceneOptions options{.disk_bytes = (1 + random() % 6) * MiB + (random() % 3 == 0 ? 512 * (random() % 300) : 0),
                       .start_paused = random() % 2 == 0,
                       .binary = qemu};
  options.style = random() % 2 == 0 ? DiskSpec::Style::Drive : DiskSpec::Style::Blockdev;
  options.format = random() % 4 == 0 ? "raw" : "qcow2";
  static const std::vector<std::string> clusters = {"64K", "64K", "4K", "2M"};
  options.image_options = options.format == "qcow2" ? "cluster_size=" + clusters[random() % clusters.size()] : "";
  options.tmpfs_bytes = random() % 2 == 0 ? kRoom : 0;
  options.powered = options.tmpfs_bytes == 0 && random() % 2 == 0;
  return options;
}

inline std::string describe(const SceneOptions& options) {
  return fmt::format("{} bytes of {} {}, {}, {}", options.disk_bytes, options.format, options.image_options,
                     options.start_paused ? "paused" : "running",
                     options.tmpfs_bytes > 0 ? "tmpfs"
                     : options.powered       ? "ext4"
                                             : "folder");
}

// Of a backup.
inline std::vector<std::string> random_arguments(Scene& scene, std::vector<std::string> arguments) {
  const auto perhaps = [&](std::initializer_list<std::string> more) {
    if (scene.below(4) == 0) {
      arguments.insert(arguments.end(), more);
    }
  };
  static const std::vector<std::string> compressions = {"none", "zlib", "zstd"};
  static const std::vector<std::string> clusters = {"4K", "64K", "2M"};
  perhaps({"--compress", compressions[scene.below(compressions.size())]});
  perhaps({"--cluster-size", clusters[scene.below(clusters.size())]});
  perhaps({"--buffered"});
  perhaps({"--no-checksum"});
  perhaps({"--speed-limit", "8M"});
  return arguments;
}

}  // namespace qmpbackup::test
