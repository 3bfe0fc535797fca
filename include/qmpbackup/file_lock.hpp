#pragma once

#include <string>

#include "qmpbackup/files.hpp"
#include "qmpbackup/lock_note.hpp"

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

  /// The file stays, even if it is empty, and is not looked at at the end: its storage may hang.
  void keep() { made_ = false; }

 private:
  std::string path_;
  bool made_ = false;
  bool keeps_its_name_ = false;  ///< the file system tells whether the name is still this file's
  UniqueFd fd_;
};

/// What a lock file says; nothing where it cannot be read: some network file systems lock the content too.
LockNote read_lock_note(const std::string& path);

/// Replaces that, durably and in place, so that whoever holds the lock keeps it: what was there is written over before
/// it is cut off, and a kill leaves at most a half line at the end. Does nothing where that does not work.
void write_lock_note(const std::string& path, const LockNote& note);

}  // namespace qmpbackup
