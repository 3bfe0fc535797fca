#pragma once

#include <string>

#include "qmpbackup/files.hpp"

namespace qmpbackup {

/// A file that gets its name when it is complete and on disk: not before, and never over another file.
///
/// Until then it has none where the file system can do that (O_TMPFILE of open(2)), so that nothing is left of it
/// whatever ends this program. Elsewhere, as on NFS, it is called PATH.partial, and the destructor removes it.
class NewFile {
 public:
  /// Makes it in the folder of `path`: empty, mode 0600. Throws FileError, and ChainError where PATH.partial is needed
  /// and there already.
  explicit NewFile(std::string path);
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile();

  /// For reading and writing; owned by this.
  [[nodiscard]] int fd() const { return fd_.get(); }

  /// Makes it so large, with a hole. Throws FileError.
  void set_size(ByteCount size) const;

  /// Whether it can be opened with O_DIRECT.
  [[nodiscard]] bool takes_direct_io() const;

  /// Puts it on disk, under its name. Blocks. Throws FileError, also where something else has that name by now.
  void keep();

 private:
  std::string path_;
  std::string partial_;  ///< empty: it has no name
  UniqueFd fd_;
};

}  // namespace qmpbackup
