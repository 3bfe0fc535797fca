#include "support/program.hpp"

#include <fcntl.h>
#include <pty.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>

#include "support/spawn.hpp"

namespace qmpbackup::test {

std::string tool_binary() {
  const char* chosen = std::getenv("QMPBACKUP_TEST_TOOL");
  return chosen != nullptr ? chosen : QMPBACKUP_BINARY;
}

namespace {

UniqueFd memory_file(const std::string& content = "") {
  UniqueFd file(::memfd_create("stream", MFD_CLOEXEC));
  const auto size = static_cast<ssize_t>(content.size());
  if (!file || ::pwrite(file.get(), content.data(), content.size(), 0) != size) {
    throw_errno("memfd");
  }
  return file;
}

std::size_t size_of(const UniqueFd& file) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) {
    throw_errno("fstat");
  }
  return static_cast<std::size_t>(status.st_size);
}

std::string content_from(const UniqueFd& file, std::size_t from) {
  const auto size = size_of(file);
  std::string text(size > from ? size - from : 0, '\0');
  const auto count = ::pread(file.get(), text.data(), text.size(), static_cast<off_t>(from));
  text.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
  return text;
}

}  // namespace

struct BackgroundProgram::State {
  State(const std::vector<std::string>& argv, const RunOptions& options)
      : in(memory_file(options.stdin_text)),
        child(spawn(argv, options, {.in = in.get(), .out = out.get(), .err = err.get()})) {}

  UniqueFd in, out = memory_file(), err = memory_file();
  Child child;
};

BackgroundProgram::BackgroundProgram(const std::vector<std::string>& argv, const RunOptions& options)
    : state_(std::make_unique<State>(argv, options)) {}
BackgroundProgram::~BackgroundProgram() = default;
BackgroundProgram::BackgroundProgram(BackgroundProgram&&) noexcept = default;
BackgroundProgram& BackgroundProgram::operator=(BackgroundProgram&&) noexcept = default;

pid_t BackgroundProgram::pid() const {
  return state_->child.pid();
}
bool BackgroundProgram::running() {
  return !finished_within(std::chrono::milliseconds(0));
}
void BackgroundProgram::send_signal(int signal) {
  state_->child.send_signal(signal);
}
bool BackgroundProgram::finished_within(std::chrono::milliseconds timeout) {
  return state_->child.finished_within(timeout);
}
std::string BackgroundProgram::out(std::size_t from) const {
  return content_from(state_->out, from);
}
std::string BackgroundProgram::err(std::size_t from) const {
  return content_from(state_->err, from);
}

std::size_t BackgroundProgram::out_size() const {
  return size_of(state_->out);
}
std::size_t BackgroundProgram::err_size() const {
  return size_of(state_->err);
}

ProgramResult BackgroundProgram::wait(std::chrono::milliseconds timeout) {
  auto result = state_->child.wait(timeout);
  result.out = out();
  result.err = err();
  return result;
}

ProgramResult run_program(const std::vector<std::string>& argv, const RunOptions& options) {
  return BackgroundProgram(argv, options).wait(options.timeout);
}

std::string run_checked(const std::vector<std::string>& argv, const RunOptions& options) {
  auto result = run_program(argv, options);
  if (result.exit_code != 0) {
    std::string line;
    for (const auto& argument : argv) {
      line += argument + " ";
    }
    throw std::runtime_error(line + "exited with " + std::to_string(result.exit_code) + ": " + result.err);
  }
  return std::move(result.out);
}

ProgramResult run_on_pty(const std::vector<std::string>& argv, const PtyOptions& options) {
  using Clock = std::chrono::steady_clock;
  winsize size{};
  size.ws_row = 24;
  size.ws_col = options.columns;
  int master_fd = -1;
  int slave_fd = -1;
  if (::openpty(&master_fd, &slave_fd, nullptr, nullptr, &size) != 0) {
    throw_errno("openpty");
  }
  const UniqueFd master(master_fd);
  UniqueFd slave(slave_fd);
  ::fcntl(master.get(), F_SETFD, FD_CLOEXEC);
  ::fcntl(slave.get(), F_SETFD, FD_CLOEXEC);
  const int end = slave.get();
  Child child(spawn(argv, options.run, {.in = end, .out = end, .err = end, .terminal = true}));
  slave.reset();

  const auto type = [&master](const std::string& text) {
    if (::write(master.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
      throw_errno("write to a terminal");
    }
  };
  type(options.run.stdin_text);
  std::string seen;
  const auto deadline = Clock::now() + options.run.timeout;
  while (Clock::now() < deadline) {
    if (wait_readable(master.get(), Clock::now() + std::chrono::milliseconds(20))) {
      char buffer[4096];
      const auto count = ::read(master.get(), buffer, sizeof buffer);
      if (count <= 0) {
        break;  // EIO: nobody has the terminal open any more
      }
      seen.append(buffer, static_cast<std::size_t>(count));
    }
    if (options.type_when) {
      type(options.type_when(seen));
    }
  }
  auto result = child.wait(std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()));
  result.out = std::move(seen);
  return result;
}

}  // namespace qmpbackup::test
