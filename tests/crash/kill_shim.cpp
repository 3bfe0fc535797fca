// Preloaded into the tool (LD_PRELOAD): kills it before or after one of its file steps, or lets that fail.
//
// Counts the calls of fsync, rename, renameat2, link, linkat, unlink, mkdir and of open with O_CREAT or O_TMPFILE.
// QMPBACKUP_KILL_STEP=N (from 0) names one, QMPBACKUP_KILL_WHEN=before|after the moment; WHEN=fail: it is not done, and
// says ENOSPC. Programs that the tool starts are left alone. With QMPBACKUP_KILL_SHIM_LIKE_NFS no rename takes
// RENAME_NOREPLACE, and every file has a name. QMPBACKUP_KILL_POWER=FOLDER: the power of that folder's file system goes
// first, with all that is not written out. QMPBACKUP_KILL_LOOK=N,FOLDER: instead, the Nth look at what is in that
// folder says EIO: a call of stat, lstat, read, or of open without O_CREAT.
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

enum class When { Before, After, Fail };

bool is_the_tool() {
  char name[32] = {};
  if (FILE* comm = std::fopen("/proc/self/comm", "r")) {
    const std::size_t size = std::fread(name, 1, sizeof name - 1, comm);
    name[size] = '\0';
    std::fclose(comm);
  }
  return std::strcmp(name, "qmpbackup\n") == 0;
}

void say(const char* text) {
  (void)!::write(STDERR_FILENO, text, std::strlen(text));
}

class Killer {
 public:
  Killer() {
    const char* step = std::getenv("QMPBACKUP_KILL_STEP");
    const char* when = std::getenv("QMPBACKUP_KILL_WHEN");
    if (step != nullptr && when != nullptr && is_the_tool()) {
      step_ = std::atoi(step);
      when_ = std::strcmp(when, "before") == 0  ? When::Before
              : std::strcmp(when, "after") == 0 ? When::After
                                                : When::Fail;
    }
  }

  // Runs one step.
  template <typename Call>
  int around(const Call& call) {
    const bool here = count_++ == step_;
    if (here && when_ == When::Before) {
      kill();
    }
    if (here && when_ == When::Fail) {
      say("kill_shim: this step fails\n");
      errno = ENOSPC;
      return -1;
    }
    const auto result = call();
    if (here && when_ == When::After) {
      kill();
    }
    return result;
  }

 private:
  static void kill() {
    if (const char* folder = std::getenv("QMPBACKUP_KILL_POWER")) {
      constexpr unsigned long kShutdown = _IOR('X', 125, unsigned);  // of ext4
      constexpr unsigned kNothingIsWrittenOut = 2;
      if (::ioctl(::open(folder, O_RDONLY), kShutdown, &kNothingIsWrittenOut) != 0) {
        std::abort();
      }
    }
    ::kill(::getpid(), SIGKILL);
  }

  int step_ = -1;
  When when_ = When::Before;
  int count_ = 0;
};

Killer& killer() {
  static Killer instance;
  return instance;
}

class Blinder {
 public:
  Blinder() {
    const char* look = std::getenv("QMPBACKUP_KILL_LOOK");
    folder_ = look == nullptr ? nullptr : std::strchr(look, ',');
    if (folder_ != nullptr && is_the_tool()) {
      ++folder_;
      look_ = std::atoi(look);
    }
  }

  // Whether this look fails; errno says why.
  bool blinds(const char* path) {
    if (look_ < 0 || std::strncmp(path, folder_, std::strlen(folder_)) != 0 || count_++ != look_) {
      return false;
    }
    say("kill_shim: this look fails\n");
    errno = EIO;
    return true;
  }

  bool blinds(int fd) {
    if (look_ < 0) {
      return false;
    }
    char link[64];
    char path[4096];
    std::snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t size = ::readlink(link, path, sizeof path - 1);
    path[size < 0 ? 0 : size] = '\0';
    return blinds(path);
  }

 private:
  int look_ = -1;
  const char* folder_ = nullptr;
  int count_ = 0;
};

Blinder& blinder() {
  static Blinder instance;
  return instance;
}

template <typename Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

bool is_like_nfs() {
  return std::getenv("QMPBACKUP_KILL_SHIM_LIKE_NFS") != nullptr;
}

bool is_unnamed(int flags) {
  return (flags & O_TMPFILE) == O_TMPFILE;
}

bool makes_a_file(int flags) {
  return (flags & O_CREAT) != 0 || is_unnamed(flags);
}

// `mode` is the third argument of open, which is there only where it makes a file.
template <typename Open>
int open_as(Open* real, const char* path, int flags, mode_t mode) {
  if (is_unnamed(flags) && is_like_nfs()) {
    errno = EOPNOTSUPP;
    return -1;
  }
  const auto call = [=] { return real(path, flags, mode); };
  if (makes_a_file(flags)) {
    return killer().around(call);
  }
  return blinder().blinds(path) ? -1 : call();
}

}  // namespace

extern "C" {

int stat(const char* path, struct stat* info) noexcept {
  return blinder().blinds(path) ? -1 : next<int(const char*, struct stat*)>("stat")(path, info);
}

int lstat(const char* path, struct stat* info) noexcept {
  return blinder().blinds(path) ? -1 : next<int(const char*, struct stat*)>("lstat")(path, info);
}

ssize_t read(int fd, void* buffer, size_t size) {
  return blinder().blinds(fd) ? -1 : next<ssize_t(int, void*, size_t)>("read")(fd, buffer, size);
}

int fsync(int fd) {
  return killer().around([=] { return next<int(int)>("fsync")(fd); });
}

int rename(const char* from, const char* to) noexcept {
  return killer().around([=] { return next<int(const char*, const char*)>("rename")(from, to); });
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) noexcept {
  if (is_like_nfs()) {
    errno = EINVAL;
    return -1;
  }
  return killer().around([=] {
    return next<int(int, const char*, int, const char*, unsigned)>("renameat2")(from_folder, from, to_folder, to,
                                                                                flags);
  });
}

int link(const char* from, const char* to) noexcept {
  return killer().around([=] { return next<int(const char*, const char*)>("link")(from, to); });
}

int linkat(int from_folder, const char* from, int to_folder, const char* to, int flags) noexcept {
  return killer().around([=] {
    return next<int(int, const char*, int, const char*, int)>("linkat")(from_folder, from, to_folder, to, flags);
  });
}

int unlink(const char* path) noexcept {
  return killer().around([=] { return next<int(const char*)>("unlink")(path); });
}

int mkdir(const char* path, mode_t mode) noexcept {
  return killer().around([=] { return next<int(const char*, mode_t)>("mkdir")(path, mode); });
}

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = makes_a_file(flags) ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  return open_as(next<int(const char*, int, ...)>("open"), path, flags, mode);
}

int open64(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = makes_a_file(flags) ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  return open_as(next<int(const char*, int, ...)>("open64"), path, flags, mode);
}
}
