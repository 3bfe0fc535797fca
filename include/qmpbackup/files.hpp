#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "qmpbackup/errors.hpp"
#include "qmpbackup/sizes.hpp"

namespace qmpbackup {

/// A file operation failed; the message names the file and the system's reason.
class FileError : public Error {
  using Error::Error;
};

/// Owns a descriptor.
class UniqueFd {
 public:
  explicit UniqueFd(int fd = -1) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  ~UniqueFd();

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool is_open() const { return fd_ >= 0; }
  int release();

 private:
  int fd_;
};

/// Creates a file with mode 0600 that must not exist yet (O_EXCL: no link is followed either). Throws FileError.
UniqueFd create_exclusively(const std::string& path);

/// Opens an existing file with the given open(2) flags; O_CLOEXEC is added. Throws FileError.
UniqueFd open_file(const std::string& path, int flags);

/// Replaces a file so that after a crash either the old or the new content is there: a temporary file beside it, fsync,
/// rename, fsync of the folder. Blocks until it is on disk. Throws FileError, and then the old file is untouched.
void write_durably(const std::string& path, std::string_view content);

/// Renames within or between folders of one file system, durably. Replaces `to`.
void rename_durably(const std::string& from, const std::string& to);

/// Gives a file a second name, `to`, durably; where the file system has no hard links, moves it there. A symbolic link
/// gets a second one to what it leads to. Fine when it was done before. Throws FileError, also when `to` is another
/// file.
void link_or_move_durably(const std::string& from, const std::string& to);

/// Renames durably within a file system, and never replaces: throws FileError where something has the name `to` by now.
void rename_to_new_durably(const std::string& from, const std::string& to);

/// Removes a file durably; fine when there is none.
void remove_durably(const std::string& path);

/// Removes a file of ours durably, and frees its blocks even where another process still holds it open: QEMU 7.2 keeps
/// removed descriptors while its VM is stopped. Only when it is no node any more: an image cut to nothing makes
/// query-named-block-nodes fail. Fine when there is none; a link is removed, not followed.
void discard_durably(const std::string& path);

/// Throws FileError for errno: "cannot WHAT PATH: ..."; ResourceError where the file is not the reason.
[[noreturn]] void throw_errno(std::string_view what, const std::string& path);

/// Makes a folder with mode 0700 durably; fine when it exists.
void make_folder_durably(const std::string& path);

/// fsync of a file, of a folder.
void sync_file(const std::string& path);
void sync_folder(const std::string& path);

/// The first `limit` bytes of a file; nothing when there is none. Throws FileError.
std::optional<std::string> read_file_if_there(const std::string& path, ByteCount limit);

/// Whether something has this name, a dangling link included. Throws FileError where that cannot be told.
bool exists(const std::string& path);

/// What a regular file, or a link to one, is like; nothing for anything else.
struct FileInfo {
  ByteCount size = 0;
  std::uint64_t inode = 0;        ///< stays when the file is renamed
  std::string modified;           ///< RFC 3339 in UTC
  bool is_link = false;           ///< the name is a symbolic link to it
  bool others_may_write = false;  ///< its mode lets its group or everybody write
};
std::optional<FileInfo> regular_file_info(const std::string& path);

/// Whether both paths are names of one file. A symbolic link is no name of what it leads to. Throws as above.
bool is_same_file(const std::string& one, const std::string& other);

/// The size of a block device; nothing when `path` is none.
std::optional<ByteCount> block_device_size(const std::string& path);

/// The names in a folder, without "." and ".."; empty where there is no such folder. Throws FileError.
std::vector<std::string> list_folder(const std::string& path);

/// The front of a file, at most `size` bytes. Throws FileError.
std::vector<std::byte> read_front(const std::string& path, std::size_t size);

enum class PageCache {
  kDrop,   ///< read from the storage, leave nothing behind: proves what is on disk
  kShare,  ///< read for another program too that reads the same file at the same time
};

/// SHA-256 of a file's content. Calls `progress` now and then with the bytes read so far. Throws FileError.
std::string sha256_of_file(const std::string& path, const std::function<void(ByteCount)>& progress,
                           PageCache page_cache = PageCache::kDrop);

/// Copies a file's content into an existing file of the same file system, sharing blocks where that can. Calls
/// `progress` as above. Throws FileError.
void copy_content(const std::string& from, const std::string& to, const std::function<void(ByteCount)>& progress);

}  // namespace qmpbackup
