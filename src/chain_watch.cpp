#include "qmpbackup/chain_watch.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <chrono>
#include <cstdint>
#include <sstream>
#include <string>

#include "qmpbackup/errors.hpp"
#include "qmpbackup/files.hpp"

namespace qmpbackup {
namespace {

constexpr int kAttempts = 4;
constexpr std::chrono::milliseconds kRest{150};

}  // namespace

ChainWatch::ChainWatch(const ChainFiles& files) : files_(files), before_(look(files)) {}

bool ChainWatch::changed() const {
  const Inodes now = look(files_);
  for (const auto& [name, inode] : before_) {
    const auto found = now.find(name);
    if (found == now.end() || found->second != inode) {
      return true;
    }
  }
  return false;
}

void ChainWatch::throw_if_changed() const {
  if (changed()) {
    throw Error(fmt::format("{} was changed by another run meanwhile", files_.base()), "try again");
  }
}

/// Level files under their final names: no merge and no move ends without a change of one of them.
ChainWatch::Inodes ChainWatch::look(const ChainFiles& files) {
  Inodes inodes;
  for (const std::string& name : list_folder(files.folder())) {
    struct stat info {};
    if (files.level_of_file(name) && ::stat(files.in_folder(name).c_str(), &info) == 0) {
      inodes[name] = info.st_ino;
    }
  }
  return inodes;
}

void for_steady_chain(EventLoop& loop, const ChainFiles& files,
                      const std::function<void(const ChainWatch&, int attempt)>& work) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const ChainWatch watch(files);
    try {
      work(watch, attempt);
      return;
    } catch (const Interrupted&) {
      throw;
    } catch (const Error&) {
      if (!watch.changed()) {
        throw;
      }
    }
    loop.sleep(kRest * (attempt + 1));
  }
  throw ChainBusy(fmt::format("another run changes {} again and again", files.base()), "try again when it has ended");
}

bool is_held_by_a_run(const ChainFiles& files) {
  struct stat info {};
  if (::stat(files.lock_path().c_str(), &info) != 0) {
    return false;
  }
  // proc(5): "1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF". File systems may show programs another device number
  // than they have in here, so that the inode alone must do.
  const std::string held = fmt::format(":{} ", info.st_ino);
  std::istringstream locks(read_file_if_there("/proc/locks", 16 * kMiB).value_or(""));
  for (std::string line; std::getline(locks, line);) {
    if (line.find(" FLOCK ") != std::string::npos && line.find(" -> ") == std::string::npos &&
        line.find(held) != std::string::npos) {
      return true;
    }
  }
  return false;
}

}  // namespace qmpbackup
