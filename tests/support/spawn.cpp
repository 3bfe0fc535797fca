#include "support/spawn.hpp"

#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <stdexcept>

#include "support/requirements.hpp"

namespace qmpbackup::test {

namespace {

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (auto& string : strings) {
    result.push_back(string.data());
  }
  result.push_back(nullptr);
  return result;
}

std::vector<std::string> merged_environment(const std::map<std::string, std::string>& additions) {
  std::vector<std::string> result;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string text = *variable;
    if (!additions.contains(text.substr(0, text.find('=')))) {
      result.push_back(text);
    }
  }
  for (const auto& [name, value] : additions) {
    result.push_back(name + "=" + value);
  }
  return result;
}

// Everything that the child needs, put together before the fork: between fork and exec it may not allocate.
struct Launch {
  std::string program;
  std::vector<std::string> argv, environment;
  std::vector<char*> argv_pointers, environment_pointers;
  std::string folder;
  const passwd* user = nullptr;
  ChildStreams streams;
  pid_t parent = 0;
};

void reset_signals() {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGQUIT, SIGCHLD}) {
    ::signal(signal, SIG_DFL);
  }
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

bool attach(const ChildStreams& streams) {
  if (streams.terminal && (::setsid() < 0 || ::ioctl(streams.in, TIOCSCTTY, 0) != 0)) {
    return false;
  }
  return ::dup2(streams.in, STDIN_FILENO) >= 0 && ::dup2(streams.out, STDOUT_FILENO) >= 0 &&
         ::dup2(streams.err, STDERR_FILENO) >= 0;
}

bool become(const passwd* user) {
  return user == nullptr ||
         (::setgroups(0, nullptr) == 0 && ::setgid(user->pw_gid) == 0 && ::setuid(user->pw_uid) == 0);
}

[[noreturn]] void run_child(const Launch& launch) {
  reset_signals();
  const bool ready =
      attach(launch.streams) && (launch.folder.empty() || ::chdir(launch.folder.c_str()) == 0) && become(launch.user);
  // After become(): a change of user clears it. The parent may be gone already.
  if (ready && ::prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && ::getppid() == launch.parent) {
    ::execve(launch.program.c_str(), launch.argv_pointers.data(), launch.environment_pointers.data());
  }
  ::_exit(127);
}

}  // namespace

pid_t spawn(const std::vector<std::string>& argv, const RunOptions& options, const ChildStreams& streams) {
  const auto program = find_program(argv.at(0));
  if (!program) {
    throw std::runtime_error("no such program: " + argv[0]);
  }
  Launch launch;
  launch.program = *program;
  launch.argv = argv;
  launch.environment = merged_environment(options.environment);
  launch.argv_pointers = pointers(launch.argv);
  launch.environment_pointers = pointers(launch.environment);
  launch.folder = options.working_folder;
  launch.streams = streams;
  launch.parent = ::getpid();
  if (!options.user.empty()) {
    launch.user = ::getpwnam(options.user.c_str());
    if (launch.user == nullptr) {
      throw std::runtime_error("no such user: " + options.user);
    }
  }
  const pid_t pid = ::fork();
  if (pid < 0) {
    throw_errno("fork");
  }
  if (pid == 0) {
    run_child(launch);
  }
  return pid;
}

Child::Child(pid_t pid)
    : pid_(pid),
      pidfd_(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))),
      started_(std::chrono::steady_clock::now()) {
  if (!pidfd_) {
    throw_errno("pidfd_open");
  }
}

Child::~Child() {
  wait(std::chrono::milliseconds(0));
}

void Child::send_signal(int signal) const {
  ::syscall(SYS_pidfd_send_signal, pidfd_.get(), signal, nullptr, 0);
}

bool Child::finished_within(std::chrono::milliseconds timeout) {
  if (!wait_readable(pidfd_.get(), std::chrono::steady_clock::now() + timeout)) {
    return false;
  }
  const std::lock_guard lock(mutex_);
  if (finished_) {
    return true;
  }
  int status = 0;
  if (::waitpid(pid_, &status, 0) != pid_) {
    throw_errno("waitpid");
  }
  finished_ = true;
  result_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
  result_.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  result_.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return true;
}

ProgramResult Child::wait(std::chrono::milliseconds timeout) {
  const bool timed_out = !finished_within(timeout);
  if (timed_out) {
    send_signal(SIGKILL);
    finished_within(std::chrono::minutes(1));
  }
  const std::lock_guard lock(mutex_);
  result_.timed_out = result_.timed_out || timed_out;
  return result_;
}

}  // namespace qmpbackup::test
