// Files that survive a crash, locks, checksums; and the clock that stamps them.
#include "qmpbackup/files.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <regex>

#include "qmpbackup/clock.hpp"
#include "qmpbackup/file_lock.hpp"
#include "qmpbackup/folders.hpp"

#include "support/images.hpp"
#include "support/requirements.hpp"
#include "support/temp_folder.hpp"

namespace qmpbackup {
namespace {

namespace fs = std::filesystem;
using test::read_file;
using test::TempFolder;
using test::write_file;

class Files : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::vector<std::string> names() const { return list_folder(folder_.path().string()); }
  mode_t mode_of(const std::string& name) const {
    struct stat info {};
    EXPECT_EQ(::stat(path(name).c_str(), &info), 0);
    return info.st_mode & 07777;
  }

  TempFolder folder_;
};

TEST_F(Files, Written_Durably_Replace_The_Old_Content_And_Leave_Nothing_Beside_It) {
  write_durably(path("f"), "one");
  EXPECT_EQ(read_file(path("f")), "one");
  write_durably(path("f"), std::string(300'000, 'x'));
  EXPECT_EQ(read_file(path("f")), std::string(300'000, 'x'));
  write_durably(path("f"), "");
  EXPECT_EQ(read_file(path("f")), "");
  EXPECT_EQ(names(), std::vector<std::string>{"f"});
  EXPECT_EQ(mode_of("f"), 0600U);
}

TEST_F(Files, Written_Durably_Get_Over_The_Temporary_File_Of_A_Killed_Run) {
  write_file(path("f.tmp"), "half");
  write_durably(path("f"), "whole");
  EXPECT_EQ(read_file(path("f")), "whole");
  EXPECT_EQ(names(), std::vector<std::string>{"f"});
}

TEST_F(Files, Written_Durably_Do_Not_Follow_A_Link_In_The_Temporary_Files_Place) {
  write_file(path("victim"), "precious");
  fs::create_symlink(path("victim"), path("f.tmp"));
  write_durably(path("f"), "new");
  EXPECT_EQ(read_file(path("victim")), "precious");
  EXPECT_FALSE(fs::is_symlink(path("f")));
}

TEST_F(Files, A_Failed_Write_Leaves_The_Old_Content) {
  write_durably(path("f"), "old");
  fs::create_directories(path("f.tmp") + "/in the way");
  try {
    write_durably(path("f"), "new");
    FAIL();
  } catch (const FileError& error) {
    EXPECT_NE(std::string(error.what()).find(path("f.tmp")), std::string::npos) << error.what();
  }
  EXPECT_EQ(read_file(path("f")), "old");
}

TEST_F(Files, A_Failed_Write_Leaves_No_Temporary_File) {
  fs::create_directories(path("f") + "/in the way");  // the rename fails
  EXPECT_THROW(write_durably(path("f"), "new"), FileError);
  EXPECT_EQ(names(), std::vector<std::string>{"f"});
}

TEST_F(Files, A_Write_To_A_Full_File_System_Leaves_The_Old_Content_And_No_Temporary_File) {
  test::TmpfsFolder small(1024 * 1024);
  QMPBACKUP_REQUIRE_TMPFS(small);
  const std::string file = (small / "f").string();
  write_durably(file, "old");
  EXPECT_THROW(write_durably(file, std::string(2'000'000, 'x')), FileError);
  EXPECT_EQ(read_file(file), "old");
  EXPECT_EQ(list_folder(small.path().string()), std::vector<std::string>{"f"});
}

TEST_F(Files, Created_Exclusively_Are_Private_And_Never_Anothers) {
  ::umask(022);
  EXPECT_TRUE(create_exclusively(path("f")).is_open());
  EXPECT_EQ(mode_of("f"), 0600U);
  EXPECT_THROW(create_exclusively(path("f")), FileError);
  fs::create_symlink(path("nowhere"), path("link"));
  EXPECT_THROW(create_exclusively(path("link")), FileError);
  EXPECT_FALSE(fs::exists(path("nowhere"))) << "the link was followed";
  EXPECT_THROW(create_exclusively(path("no folder/f")), FileError);
}

TEST_F(Files, Descriptors_Do_Not_Leak_Into_Other_Programs) {
  EXPECT_NE(::fcntl(create_exclusively(path("f")).get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_NE(::fcntl(open_file(path("f"), O_RDONLY).get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(Files, UniqueFd_Closes_Once_And_Moves) {
  UniqueFd first = create_exclusively(path("f"));
  const int number = first.get();
  UniqueFd second(std::move(first));
  EXPECT_EQ(second.get(), number);
  UniqueFd third = create_exclusively(path("g"));
  third = std::move(second);
  EXPECT_EQ(third.get(), number);
  EXPECT_NE(::fcntl(number, F_GETFD), -1);
  EXPECT_EQ(third.release(), number);
  EXPECT_FALSE(third.is_open());
  ::close(number);
}

TEST_F(Files, Renamed_And_Removed_Durably_Say_What_Failed) {
  write_file(path("a"), "a");
  make_folder_durably(path("sub"));
  make_folder_durably(path("sub"));
  EXPECT_EQ(mode_of("sub"), 0700U);
  rename_durably(path("a"), path("sub/b"));
  EXPECT_EQ(read_file(path("sub/b")), "a");
  EXPECT_THROW(rename_durably(path("a"), path("c")), FileError);
  remove_durably(path("sub/b"));
  EXPECT_NO_THROW(remove_durably(path("sub/b"))) << "none there is fine";
  EXPECT_THROW(remove_durably(path("sub")), FileError);
  write_file(path("plain"), "");
  EXPECT_THROW(make_folder_durably(path("plain")), FileError);
}

TEST_F(Files, Linked_Have_Both_Names_And_Never_Replace_Another_File) {
  write_file(path("a"), "content");
  fs::create_directory(path("folder"));
  for (int again = 0; again < 2; ++again) {
    link_or_move_durably(path("a"), path("folder/a"));
    EXPECT_EQ(read_file(path("a")), "content");
    EXPECT_EQ(read_file(path("folder/a")), "content");
  }
  write_file(path("b"), "other");
  EXPECT_THROW(link_or_move_durably(path("b"), path("folder/a")), FileError);
  EXPECT_THROW(link_or_move_durably(path("absent"), path("folder/c")), FileError);
  EXPECT_EQ(read_file(path("folder/a")), "content");
}

// From another folder a relative one would lead elsewhere.
TEST_F(Files, Linked_That_Are_Links_Lead_To_The_Same_File) {
  fs::create_directories(path("cold"));
  fs::create_directories(path("chain/archive"));
  write_file(path("cold/f"), "old");
  fs::create_symlink("../cold/f", path("chain/f"));
  fs::create_symlink("../cold/none", path("chain/none"));
  for (int again = 0; again < 2; ++again) {
    link_or_move_durably(path("chain/f"), path("chain/archive/f"));
    EXPECT_EQ(read_file(path("chain/archive/f")), "old");
  }
  EXPECT_TRUE(fs::is_symlink(path("chain/f")));
  link_or_move_durably(path("chain/none"), path("chain/archive/none"));  // its storage may come back
  write_file(path("cold/none"), "back");
  EXPECT_EQ(read_file(path("chain/archive/none")), "back");
  write_file(path("chain/archive/taken"), "precious");
  EXPECT_THROW(link_or_move_durably(path("chain/f"), path("chain/archive/taken")), FileError);
  EXPECT_EQ(read_file(path("chain/archive/taken")), "precious");
}

TEST_F(Files, That_Cannot_Be_Looked_At_Are_Not_Told_To_Be_Gone) {
  fs::create_symlink("loop", path("loop"));
  EXPECT_TRUE(exists(path("loop")));
  EXPECT_THROW(exists(path("loop/f")), FileError);
  EXPECT_THROW(is_same_file(path("loop"), path("loop/f")), FileError);
  EXPECT_FALSE(exists(path("none")));
  EXPECT_FALSE(exists(path("none/f")));
  EXPECT_THROW(read_front(path("."), 512), FileError) << "it opens, and cannot be read";
}

TEST_F(Files, Absent_Is_Told_Apart_From_Unreadable) {
  EXPECT_FALSE(read_file_if_there(path("none"), kMiB));
  write_file(path("f"), std::string(1000, 'x'));
  EXPECT_EQ(read_file_if_there(path("f"), 1000)->size(), 1000U);
  EXPECT_EQ(read_file_if_there(path("f"), 999)->size(), 999U) << "no more than the caller can bear";
  EXPECT_THROW(read_file_if_there(folder_.path().string(), kMiB), FileError);
  EXPECT_THROW(read_file_if_there(path("f/below"), kMiB), FileError);
}

TEST_F(Files, Discarding_Leaves_The_Content_Of_A_File_That_Has_Another_Name) {
  write_file(path("victim"), "precious");
  fs::create_hard_link(path("victim"), path("partial"));
  discard_durably(path("partial"));
  EXPECT_FALSE(exists(path("partial")));
  EXPECT_EQ(read_file(path("victim")), "precious");
}

TEST_F(Files, A_Pipe_In_A_Files_Place_Does_Not_Hang) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_FALSE(regular_file_info(path("pipe")));
  EXPECT_TRUE(read_front(path("pipe"), 10).empty());
  EXPECT_EQ(read_file_if_there(path("pipe"), kMiB), "");
}

TEST_F(Files, Are_Seen_For_What_They_Are) {
  write_file(path("f"), "12345");
  fs::create_symlink(path("nowhere"), path("dangling"));
  EXPECT_TRUE(exists(path("f")));
  EXPECT_TRUE(exists(path("dangling"))) << "a name that is taken";
  EXPECT_FALSE(exists(path("nowhere")));
  EXPECT_EQ(regular_file_info(path("f"))->size, 5U);
  EXPECT_FALSE(regular_file_info(path("dangling")));
  EXPECT_FALSE(regular_file_info(folder_.path().string()));
  EXPECT_EQ(read_front(path("f"), 3).size(), 3U);
  EXPECT_EQ(read_front(path("f"), 100).size(), 5U);
  EXPECT_THROW(read_front(path("none"), 100), FileError);
  EXPECT_TRUE(is_folder(folder_.path().string()));
  EXPECT_FALSE(is_folder(path("f")));
  EXPECT_TRUE(list_folder(path("none")).empty());
  EXPECT_TRUE(is_writable_folder(folder_.path().string()));
  EXPECT_GT(free_bytes(folder_.path().string()).value_or(0), 0U);
  EXPECT_FALSE(free_bytes(path("none")));
}

TEST_F(Files, Trying_Direct_IO_Leaves_Nothing_Behind) {
  takes_direct_io(folder_.path().string(), path("none"));
  EXPECT_TRUE(names().empty());
  EXPECT_FALSE(takes_direct_io(path("none"), path("none")));
}

TEST_F(Files, Checksum_Equals_That_Of_Sha256sum) {
  write_file(path("empty"), "");
  EXPECT_EQ(sha256_of_file(path("empty"), [](ByteCount) {}),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  write_file(path("million"), std::string(1'000'000, 'a'));  // FIPS 180-2, appendix B.3
  EXPECT_EQ(sha256_of_file(path("million"), [](ByteCount) {}),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  ByteCount last = 0;
  write_file(path("large"), std::string(3 * 1024 * 1024 + 5, 'b'));
  const std::string sum = sha256_of_file(path("large"), [&](ByteCount done) {
    EXPECT_GT(done, last);
    last = done;
  });
  EXPECT_EQ(last, 3 * kMiB + 5);
  EXPECT_EQ(sum.size(), 64U);
  EXPECT_THROW(sha256_of_file(path("none"), [](ByteCount) {}), FileError);
}

/// Whether a file's last byte can be read without a wait for its storage.
bool is_in_page_cache(const std::string& path) {
  const UniqueFd fd = open_file(path, O_RDONLY);
  std::byte byte{};
  const iovec piece{&byte, 1};
  return ::preadv2(fd.get(), &piece, 1, static_cast<off_t>(std::filesystem::file_size(path)) - 1, RWF_NOWAIT) == 1;
}

TEST_F(Files, A_Checksum_Leaves_Nothing_In_The_Page_Cache_Unless_It_Is_Shared) {
  write_file(path("f"), std::string(4 * 1024 * 1024, 'b'));
  sync_file(path("f"));
  ASSERT_TRUE(is_in_page_cache(path("f")));
  struct statfs system {};
  ASSERT_EQ(::statfs(path("f").c_str(), &system), 0);
  if (system.f_type != TMPFS_MAGIC) {  // which has its files there alone
    sha256_of_file(path("f"), [](ByteCount) {});
    EXPECT_FALSE(is_in_page_cache(path("f")));
  }
  sha256_of_file(
      path("f"), [](ByteCount) {}, PageCache::kShare);
  EXPECT_TRUE(is_in_page_cache(path("f")));
}

TEST_F(Files, A_Lock_Excludes_A_Second_One_At_Once_And_Ends_With_Its_Holder) {
  {
    const FileLock lock(path("l"));
    try {
      const FileLock second(path("l"));
      FAIL();
    } catch (const ChainBusy& busy) {
      EXPECT_NE(std::string(busy.what()).find(path("l")), std::string::npos);
      EXPECT_FALSE(busy.hint().empty());
    }
    const FileLock other(path("m"));
    EXPECT_EQ(mode_of("l"), 0600U);
  }
  EXPECT_NO_THROW(FileLock(path("l")));
}

TEST_F(Files, A_Lock_That_Was_Removed_Or_Replaced_Is_Not_Held) {
  const FileLock lock(path("lock"));
  lock.require_held();
  fs::rename(path("lock"), path("away"));
  EXPECT_THROW(lock.require_held(), ChainBusy);
  const FileLock other(path("lock"));
  other.require_held();
  EXPECT_THROW(lock.require_held(), ChainBusy);
}

TEST_F(Files, A_Lock_That_Nothing_Came_Of_Leaves_No_File) {
  { const FileLock lock(path("l")); }
  EXPECT_EQ(names(), std::vector<std::string>{});
  write_file(path("l"), "");
  { const FileLock lock(path("l")); }
  EXPECT_EQ(names(), std::vector<std::string>{"l"}) << "somebody else made it";
  fs::remove(path("l"));
  {
    const FileLock lock(path("l"));
    write_lock_note(path("l"), {.past = {{*ChainId::parse("0b3c6f52-1d2e-4f60-8a9b-0123456789ab")}}});
  }
  EXPECT_EQ(names(), std::vector<std::string>{"l"});
}

TEST_F(Files, A_Lock_Excludes_Another_Process_And_Ends_When_That_Is_Killed) {
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const FileLock lock(path("l"));
    (void)!::write(ready[1], "x", 1);
    ::pause();
    ::_exit(0);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_THROW(FileLock(path("l")), ChainBusy);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_NO_THROW(FileLock(path("l")));
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_F(Files, A_Lock_Follows_No_Link_And_Says_What_Is_In_The_Way) {
  fs::create_symlink(path("victim"), path("l"));
  EXPECT_THROW(FileLock(path("l")), FileError);
  EXPECT_FALSE(fs::exists(path("victim")));
  EXPECT_THROW(FileLock(folder_.path().string()), FileError);
  EXPECT_THROW(FileLock(path("none/l")), FileError);
}

TEST(Clock, Stamps_In_UTC_And_Makes_Ids_That_Differ) {
  EXPECT_EQ(format_utc(0), "1970-01-01T00:00:00Z");
  EXPECT_EQ(format_utc(1795312800), "2026-11-22T02:00:00Z");
  EXPECT_TRUE(std::regex_match(now_utc(), std::regex(R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)")));
  EXPECT_NE(random_chain_id(), random_chain_id());
  EXPECT_TRUE(ChainId::parse(random_chain_id().text()));
  EXPECT_EQ(random_chain_id().text()[14], '4');
  for (int i = 0; i < 100; ++i) {
    const int number = random_number();
    EXPECT_TRUE(number >= 1 && number <= 1 << 30);
  }
}

}  // namespace
}  // namespace qmpbackup
