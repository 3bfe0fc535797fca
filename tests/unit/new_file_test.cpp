// A file that has its name when it is complete, and not before.
#include "qmpbackup/new_file.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/images.hpp"
#include "support/temp_folder.hpp"

namespace qmpbackup {
namespace {

class NewFiles : public testing::Test {
 protected:
  std::vector<std::string> names() const { return list_folder(folder_.path().string()); }

  test::TempFolder folder_;
  std::string path_ = (folder_ / "disk.raw").string();
};

TEST_F(NewFiles, Has_Its_Name_When_It_Is_Kept_And_Not_Before) {
  NewFile file(path_);
  ASSERT_EQ(::write(file.fd(), "content", 7), 7);
  EXPECT_TRUE(names().empty());
  file.keep();
  EXPECT_EQ(names(), std::vector<std::string>{"disk.raw"});
  EXPECT_EQ(test::read_file(path_), "content");
  struct stat info {};
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600U);
}

TEST_F(NewFiles, Leaves_Nothing_When_It_Is_Not_Kept) {
  {
    const NewFile file(path_);
    file.set_size(kMiB);
    EXPECT_EQ(::lseek(file.fd(), 0, SEEK_END), static_cast<off_t>(kMiB));
  }
  EXPECT_TRUE(names().empty());
}

TEST_F(NewFiles, Never_Takes_The_Place_Of_Another_File) {
  NewFile file(path_);
  test::write_file(path_, "precious");
  EXPECT_THROW(file.keep(), FileError);
  EXPECT_EQ(test::read_file(path_), "precious");
}

TEST_F(NewFiles, Needs_A_Folder) {
  EXPECT_THROW(NewFile((folder_ / "none/disk.raw").string()), FileError);
}

}  // namespace
}  // namespace qmpbackup
