// Runs the real program and looks at what users and scripts see: exit code, stdout, stderr.
#pragma once

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "support/images.hpp"
#include "support/program.hpp"
#include "support/temp_folder.hpp"
#include "support/unix_socket.hpp"

namespace qmpbackup::test {

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

// Every line of stdout; fails the test where one is no JSON object with a message_type.
inline std::vector<nlohmann::json> json_lines_of(const std::string& text) {
  std::vector<nlohmann::json> objects;
  for (const std::string& line : lines_of(text)) {
    nlohmann::json object = nlohmann::json::parse(line, nullptr, false);
    EXPECT_TRUE(object.is_object() && object.contains("message_type")) << "'" << line << "'";
    objects.push_back(std::move(object));
  }
  return objects;
}

// What every refusal looks like: one line on stderr, nothing on stdout.
inline void expect_refusal(const ProgramResult& result, int exit_code, const std::string& words) {
  EXPECT_EQ(result.exit_code, exit_code) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_TRUE(result.err.starts_with("qmpbackup: error: ")) << result.err;
  EXPECT_EQ(lines_of(result.err).size(), 1U) << result.err;
  EXPECT_TRUE(result.err.ends_with("\n"));
  EXPECT_NE(result.err.find(words), std::string::npos) << "'" << words << "' is not in: " << result.err;
}

// A UNIX socket with somebody behind it who is no QEMU.
class FakeMonitor {
 public:
  using Talk = std::function<void(int connection)>;

  FakeMonitor(const std::string& path, Talk talk)
      : listener_(listen_unix(path)), thread_([this, talk = std::move(talk)] {
          for (;;) {
            const UniqueFd connection(::accept(listener_.get(), nullptr, nullptr));
            if (!connection) {
              return;
            }
            ++connections_;
            talk(connection.get());
          }
        }) {}
  FakeMonitor(const FakeMonitor&) = delete;
  FakeMonitor& operator=(const FakeMonitor&) = delete;
  ~FakeMonitor() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }

  int connections() const { return connections_; }

  // Says something; then waits until the other side has gone.
  static Talk saying(const std::string& text) {
    return [text](int connection) {
      send_with_descriptors(connection, text, {});
      while (!receive_with_descriptors(connection).bytes.empty()) {
      }
    };
  }

 private:
  UniqueFd listener_;
  std::atomic<int> connections_ = 0;
  std::thread thread_;
};

class CliTest : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  // "{}" in an argument stands for the test's folder.
  ProgramResult run(std::vector<std::string> arguments, const RunOptions& options = {}) const {
    std::vector<std::string> argv = tool();
    for (std::string& argument : arguments) {
      for (auto at = argument.find("{}"); at != std::string::npos; at = argument.find("{}")) {
        argument.replace(at, 2, folder_.path().string());
      }
      argv.push_back(std::move(argument));
    }
    return run_program(argv, options);
  }

  ProgramResult backup(const std::string& socket, std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments{"-socket",         socket,   "-backupFile",       "{}/drive0",
                                       "-deviceToBackup", "drive0", "--connect-timeout", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(std::move(arguments));
  }

  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
      names.push_back(entry.path().filename());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  TempFolder folder_{"/tmp"};
};

}  // namespace qmpbackup::test
