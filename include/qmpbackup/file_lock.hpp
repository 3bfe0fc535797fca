#pragma once

#include <string>
#include <string_view>

#include "qmpbackup/files.hpp"

namespace qmpbackup {

/// Holds an exclusive lock (flock) on a lock file, which it makes when there is none. It stays there, unless it is
/// empty at the end: then this run made it, and nothing came of the run.
class FileLock {
 public:
  /// Throws ChainBusy at once when another process holds it, FileError when the file cannot be made.
  explicit FileLock(const std::string& path);
  FileLock(FileLock&&) = default;
  FileLock& operator=(FileLock&&) = delete;
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  ~FileLock();

  /// Throws ChainBusy where the file was removed or replaced since: then another run can hold a lock of the same name.
  void require_held() const;

 private:
  std::string path_;
  bool made_ = false;
  bool keeps_its_name_ = false;  ///< the file system tells whether the name is still this file's
  UniqueFd fd_;
};

/// Replaces the content of a lock file in place, so that whoever holds the lock keeps it. A kill may leave half of it.
/// Does nothing where that does not work: some network file systems lock the content too.
void write_note_into_lock(const std::string& path, std::string_view note);

}  // namespace qmpbackup
