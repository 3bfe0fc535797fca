#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "qmpbackup/chain_view.hpp"
#include "qmpbackup/event_loop.hpp"
#include "qmpbackup/files.hpp"
#include "qmpbackup/image_map.hpp"

namespace qmpbackup {

struct LevelCheckOptions {
  PageCache page_cache = PageCache::kDrop;
  bool structure = true;  ///< qemu-img check of all levels but those that were checked at the commit of the same bytes;
                          ///< without: of those alone that have no checksum
  bool read = false;      ///< of levels without a checksum also read every cluster; check all that `structure` means
};

/// What is known of a level after its check. No fault: it is what was committed, as far as `proved` goes.
struct LevelVerdict {
  std::vector<std::string> faults;
  std::vector<std::string> proved;  ///< names of checks, see kWhatIsProved
};

/// The checks, in the order in which they are made, and what each one proves.
struct CheckMeaning {
  const char* name;
  const char* proves;
};
inline constexpr std::array<CheckMeaning, 5> kWhatIsProved{{
    {"file", "a file of its own; its size, disk size and backing link are right"},
    {"sha256", "these are the bytes that were committed"},
    {"structure", "qemu-img check finds the tables sound, now or when committed"},
    {"completeness", "it holds all that was copied, seen now or when committed"},
    {"read", "every cluster can be read and decompressed"},
}};

/// Throws Error when an image holds less than `record` says was copied; `map` is of the file at `path`.
void refuse_incomplete(const std::string& path, const LevelRecord& record, const ImageMap& map);

/// Checks the content of all `levels` and calls `on_verdict` for each, in their order, as soon as it is known; of a
/// level that has a fault already nothing more is read. Checksums are computed one after another, as fast as the
/// processor does it; qemu-img runs beside that, as many at a time as there are processors. Calls `on_progress` now and
/// then with the bytes hashed so far. Throws Interrupted, and what the callbacks throw.
void check_levels(EventLoop& loop, const std::vector<LevelView>& levels, const LevelCheckOptions& options,
                  const std::function<void(ByteCount)>& on_progress,
                  const std::function<void(std::size_t, const LevelVerdict&)>& on_verdict);

}  // namespace qmpbackup
