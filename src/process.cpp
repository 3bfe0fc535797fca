#include "qmpbackup/process.hpp"

#include <asio.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <sstream>

#include "qmpbackup/errors.hpp"
#include "qmpbackup/files.hpp"

namespace qmpbackup {
namespace {

constexpr std::size_t kErrTail = 4 * kKiB;
constexpr int kInheritedAs = 3;
constexpr int kFromSignal = 128;  // added to its number, as shells do

/// qemu-img gets and returns large memory for every cluster, and glibc would each time have the kernel clear its pages
/// anew: a fifth of a restore's time. So it is kept, in one heap of huge pages (glibc manual, "Memory Allocation
/// Tunables"; 32 MiB is the largest threshold that glibc takes; an older one passes over what it does not know).
constexpr auto kKeepMemory =
    "glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=1073741824:glibc.malloc.arena_max=1:"
    "glibc.malloc.hugetlb=1";

/// Reads a pipe to its end on the loop. Shared with its handler, which may run after the caller is gone: `on_piece` is
/// then empty.
struct PipeReader : std::enable_shared_from_this<PipeReader> {
  PipeReader(asio::io_context& context, int fd, std::function<void(std::string_view)> consumer)
      : stream(context, fd), on_piece(std::move(consumer)) {}

  void read() {
    stream.async_read_some(asio::buffer(block),
                           [self = shared_from_this()](const asio::error_code& error, std::size_t n) {
                             if (!self->on_piece) {
                               return;
                             }
                             self->on_piece({self->block.data(), n});
                             self->ended = static_cast<bool>(error);
                             if (!error) {
                               self->read();
                             }
                           });
  }

  asio::posix::stream_descriptor stream;
  std::function<void(std::string_view)> on_piece;
  std::array<char, 16 * kKiB> block{};
  bool ended = false;
};

/// Keeps a pipe's reader alive while the caller is there to listen.
class Listening {
 public:
  Listening(asio::io_context& context, UniqueFd fd, std::function<void(std::string_view)> consumer)
      : reader_(std::make_shared<PipeReader>(context, fd.release(), std::move(consumer))) {
    reader_->read();
  }
  Listening(const Listening&) = delete;
  Listening& operator=(const Listening&) = delete;
  ~Listening() { reader_->on_piece = nullptr; }

  [[nodiscard]] bool ended() const { return reader_->ended; }

 private:
  std::shared_ptr<PipeReader> reader_;
};

std::array<UniqueFd, 2> make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    throw ResourceError(fmt::format("cannot make a pipe: {}", std::strerror(errno)));
  }
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

/// Kills and reaps the child unless it was reaped already.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid) {}
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
    }
    constexpr int kTries = 500;  // one that hangs in its storage takes a signal late: it is left to init then
    for (int i = 0; i < kTries && pid_ > 0 && !reap(); ++i) {
      ::usleep(10'000);
    }
  }

  /// Whether it has ended; then exit_code is set.
  bool reap() {
    int status = 0;
    const pid_t got = ::waitpid(pid_, &status, WNOHANG);
    if (got == 0) {
      return false;
    }
    pid_ = -1;
    exit_code = got < 0 ? 1 : WIFSIGNALED(status) ? kFromSignal + WTERMSIG(status) : WEXITSTATUS(status);
    return true;
  }

  int exit_code = 0;

 private:
  pid_t pid_;
};

struct ChildDescriptors {
  int out;
  int err;
  int inherited;  ///< -1 for none
  int report;     ///< a pipe that closes on exec: why there was none
};

/// A program that opens a chain has all its levels open at once: it may use what the hard limit leaves it.
void take_all_descriptors() {
  struct rlimit limit {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
}

/// The child, from fork to exec.
[[noreturn]] void become(char* const* argv, const ChildDescriptors& descriptors, pid_t parent) {
  take_all_descriptors();
  // First out of the way of the descriptors that are given to the program.
  const int report = ::fcntl(descriptors.report, F_DUPFD_CLOEXEC, kInheritedAs + 1);
  const int inherited =
      descriptors.inherited < 0 ? -1 : ::fcntl(descriptors.inherited, F_DUPFD_CLOEXEC, kInheritedAs + 1);
  // A group of its own, so that ctrl-c reaches this program alone, which then decides; its end when this program is
  // killed; and the usual fate on SIGPIPE.
  const bool ready = report >= 0 && (descriptors.inherited < 0 || inherited >= 0) && ::setpgid(0, 0) == 0 &&
                     ::prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 && ::getppid() == parent &&
                     std::signal(SIGPIPE, SIG_DFL) != SIG_ERR &&
                     ::dup2(::open("/dev/null", O_RDONLY | O_CLOEXEC), STDIN_FILENO) >= 0 &&
                     ::dup2(descriptors.out, STDOUT_FILENO) >= 0 && ::dup2(descriptors.err, STDERR_FILENO) >= 0 &&
                     (inherited < 0 || ::dup2(inherited, kInheritedAs) >= 0);
  if (ready) {
    ::setenv("GLIBC_TUNABLES", kKeepMemory, 0);  // what the user has set stays
    ::execvp(argv[0], argv);
  }
  const int error = errno;
  (void)!::write(report < 0 ? descriptors.report : report, &error, sizeof error);
  ::_exit(1);
}

pid_t spawn(const std::vector<std::string>& argv, int out, int err, int inherited) {
  std::vector<char*> arguments;
  arguments.reserve(argv.size() + 1);
  for (const std::string& argument : argv) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  std::array<UniqueFd, 2> report = make_pipe();
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid == 0) {
    become(arguments.data(), {out, err, inherited, report[1].get()}, parent);
  }
  report[1] = UniqueFd();
  int error = pid < 0 ? errno : 0;
  if (pid > 0 && ::read(report[0].get(), &error, sizeof error) == sizeof error) {
    ::waitpid(pid, nullptr, 0);
  }
  if (error != 0) {
    throw ResourceError(fmt::format("cannot run {}: {}", argv.front(), std::strerror(error)),
                        error == ENOENT ? "install it: it comes with QEMU (Debian: qemu-utils)" : "");
  }
  return pid;
}

}  // namespace

std::string ProcessResult::reason() const {
  return err.empty() ? fmt::format("exit code {}", exit_code) : err.substr(0, err.find('\n'));
}

struct Process::Running {
  Running(EventLoop& event_loop, const std::vector<std::string>& argv, int inherited, OnOutput on_output,
          std::array<UniqueFd, 2> out_pipe, std::array<UniqueFd, 2> err_pipe)
      : loop(event_loop),
        name(argv.front()),
        child(spawn(argv, out_pipe[1].get(), err_pipe[1].get(), inherited)),
        out(loop.context(), std::move(out_pipe[0]), std::move(on_output)),
        err(loop.context(), std::move(err_pipe[0]), [this](std::string_view piece) {
          err_tail += piece;
          err_tail.erase(0, err_tail.size() - std::min(err_tail.size(), kErrTail));
        }) {}

  EventLoop& loop;
  std::string name;
  Child child;
  std::string err_tail;
  Listening out;
  Listening err;
};

Process::Process(EventLoop& loop, const std::vector<std::string>& argv, int inherited, OnOutput on_output)
    : running_(std::make_unique<Running>(loop, argv, inherited, std::move(on_output), make_pipe(), make_pipe())) {}

Process::~Process() = default;

bool Process::ended() const {
  return running_->out.ended() && running_->err.ended();
}

ProcessResult Process::wait(Deadline deadline) {
  Running& running = *running_;
  bool in_time = running.loop.wait_until([&] { return ended(); }, deadline);
  while (in_time && !running.child.reap()) {  // the pipes are closed: its end is a matter of moments
    in_time = std::chrono::steady_clock::now() < deadline;
    running.loop.sleep(std::chrono::milliseconds(1));
  }
  if (!in_time) {
    throw ResourceError(fmt::format("{} is not done in time", running.name));
  }
  if (const int code = running.child.exit_code; code == kFromSignal + SIGKILL || code == kFromSignal + SIGTERM) {
    throw ResourceError(fmt::format("{} was killed", running.name), "was there too little memory? Try again");
  }
  return {running.child.exit_code, std::move(running.err_tail)};
}

std::size_t processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return ::sched_getaffinity(0, sizeof set, &set) == 0 ? static_cast<std::size_t>(CPU_COUNT(&set)) : 1;
}

void require_open_files(std::size_t count) {
  struct rlimit limit {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max < count) {
    throw ResourceError(
        fmt::format("{} files must be open at the same time, and the limit is {}", count, limit.rlim_max),
        "raise it (ulimit -n), or run as root");
  }
}

void require_program(const std::string& name) {
  const char* folders = std::getenv("PATH");
  std::istringstream path(folders == nullptr ? "/bin:/usr/bin" : folders);  // as execvp
  for (std::string folder; std::getline(path, folder, ':');) {
    folder = folder.empty() ? "." : folder;
    if (::access(folder.append("/").append(name).c_str(), X_OK) == 0) {
      return;
    }
  }
  throw ResourceError(fmt::format("{} is not on PATH", name), "install it: it comes with QEMU (Debian: qemu-utils)");
}

bool storage_answers(EventLoop& loop, const std::string& path, std::chrono::steady_clock::duration time) {
  std::unique_ptr<Process> look;
  try {
    look = std::make_unique<Process>(loop, std::vector<std::string>{"stat", "--", path}, -1, [](std::string_view) {});
  } catch (const ResourceError&) {
    return true;  // nobody can tell
  }
  return loop.wait_until([&] { return look->ended(); },
                         after(std::max<std::chrono::steady_clock::duration>(time, std::chrono::seconds(5))));
}

ProcessResult run_process(EventLoop& loop, const std::vector<std::string>& argv, int inherited, Deadline deadline,
                          const Process::OnOutput& on_output) {
  return Process(loop, argv, inherited, on_output).wait(deadline);
}

}  // namespace qmpbackup
