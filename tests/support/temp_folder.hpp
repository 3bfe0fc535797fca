// Folders that live as long as the test that made them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace qmpbackup::test {

// A new empty folder (mode 0700), removed with everything in it by the destructor.
class TempFolder {
 public:
  // Below $TMPDIR, or /tmp.
  TempFolder();
  explicit TempFolder(const std::filesystem::path& parent);
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

// A tmpfs of `size_bytes` on a folder of its own, unmounted by the destructor: the way to a full target.
// Mounting needs root; check it with QMPBACKUP_REQUIRE_TMPFS.
class TmpfsFolder {
 public:
  explicit TmpfsFolder(std::uint64_t size_bytes);
  ~TmpfsFolder();
  TmpfsFolder(const TmpfsFolder&) = delete;
  TmpfsFolder& operator=(const TmpfsFolder&) = delete;

  bool available() const { return problem_.empty(); }
  // Why nothing is mounted; empty when available.
  const std::string& problem() const { return problem_; }
  // Changes the size while mounted ("space came back"). Throws std::system_error.
  void resize(std::uint64_t size_bytes);

  const std::filesystem::path& path() const { return folder_.path(); }
  std::filesystem::path operator/(const std::string& name) const { return folder_ / name; }

 private:
  TempFolder folder_;
  std::string problem_;
};

}  // namespace qmpbackup::test
