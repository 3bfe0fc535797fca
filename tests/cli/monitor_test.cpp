// Somebody behind the socket who is no QEMU, or one that misbehaves; and signals while waiting for it.
#include <csignal>

#include "cli/cli_fixture.hpp"

namespace qmpbackup::test {
namespace {

const char* const kGreeting =
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, \"package\": \"\"}, "
    "\"capabilities\": [\"oob\"]}}\r\n";

class MonitorTest : public CliTest {
 protected:
  ProgramResult backup_from(FakeMonitor::Talk talk, std::vector<std::string> more = {}) const {
    const FakeMonitor monitor(path("qmp"), std::move(talk));
    const ProgramResult result = backup("{}/qmp", std::move(more));
    std::filesystem::remove(path("qmp"));
    return result;
  }

  // Greets, and answers each command by `answer`; an empty answer closes the connection.
  static FakeMonitor::Talk answering(std::function<std::string(const nlohmann::json& command)> answer) {
    return [answer = std::move(answer)](int connection) {
      send_with_descriptors(connection, kGreeting, {});
      MessageSplitter incoming;
      for (;;) {
        Chunk chunk = receive_with_descriptors(connection);
        if (chunk.bytes.empty()) {
          return;
        }
        incoming.add(std::move(chunk));
        while (const auto message = incoming.next()) {
          const std::string text = answer(nlohmann::json::parse(message->line));
          if (text.empty() || !send_with_descriptors(connection, text, {})) {
            return;
          }
        }
      }
    };
  }

  static std::string reply(const nlohmann::json& command, const nlohmann::json& value) {
    return nlohmann::json{{"return", value}, {"id", command.at("id")}}.dump() + "\r\n";
  }
};

TEST_F(MonitorTest, A_Busy_Monitor_Is_Told_Within_The_Deadline_And_By_Its_Name) {
  const ProgramResult result = backup_from(FakeMonitor::saying(""));
  expect_refusal(result, 4, "another client holds this monitor");
  EXPECT_GE(result.seconds, 0.9);
  EXPECT_LT(result.seconds, 4);
}

TEST_F(MonitorTest, Rubbish_Instead_Of_A_Greeting_Exits_4) {
  for (const char* text :
       {"SSH-2.0-OpenSSH_9.2\r\n", "QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) \r\n",
        "\n\n\xff\xfe\x01\n", "{\"QMP\": 5}\n", "[]\n", "HTTP/1.1 400 Bad Request\r\n\r\n"}) {
    expect_refusal(backup_from(FakeMonitor::saying(text)), 4, "QEMU sent");
  }
}

TEST_F(MonitorTest, Half_A_Greeting_Is_A_Missing_One) {
  expect_refusal(backup_from(FakeMonitor::saying("{\"QMP\": {\"version\"")), 4, "sends no greeting");
}

TEST_F(MonitorTest, A_Connection_Closed_At_Once_Exits_4) {
  expect_refusal(backup_from([](int) {}), 4, "closed the connection");
  expect_refusal(backup_from([](int connection) { send_with_descriptors(connection, "{\"QMP\"", {}); }), 4, "");
}

TEST_F(MonitorTest, A_Connection_Closed_In_The_Middle_Exits_4) {
  int commands = 0;
  const auto one_answer = answering([&](const nlohmann::json& command) {
    return commands++ == 0 ? reply(command, nlohmann::json::object()) : std::string();
  });
  expect_refusal(backup_from(one_answer), 4, "broke");
  EXPECT_EQ(commands, 2);
}

TEST_F(MonitorTest, A_Reply_Cut_Off_In_The_Middle_Exits_4) {
  const auto half = [](int connection) {
    send_with_descriptors(connection, std::string(kGreeting) + "{\"return\": {}, \"id\": \"qmpb", {});
  };
  expect_refusal(backup_from(half), 4, "");
}

TEST_F(MonitorTest, A_Monitor_That_Stops_Answering_Is_Given_Up_In_Time) {
  const auto silent = [](int connection) { FakeMonitor::saying(kGreeting)(connection); };
  const ProgramResult result = backup_from(silent, {"--stall-timeout", "1"});
  expect_refusal(result, 4, "does not answer qmp_capabilities");
  EXPECT_LT(result.seconds, 10);
}

TEST_F(MonitorTest, An_Old_QEMU_Is_Refused_By_Feature_And_Nothing_Is_Changed) {
  std::vector<std::string> seen;
  const auto old_qemu = answering([&](const nlohmann::json& command) {
    seen.push_back(command.at("execute"));
    const bool object = seen.back() == "query-status" || seen.back() == "qmp_capabilities";
    if (seen.back() == "query-block") {
      return reply(command, {{{"device", "drive0"}, {"inserted", {{"node-name", "n0"}}}}});
    }
    if (seen.back() == "query-named-block-nodes") {
      return reply(command, {{{"node-name", "n0"}, {"drv", "raw"}, {"image", {{"virtual-size", 1048576}}}}});
    }
    return reply(command, object ? nlohmann::json::object() : nlohmann::json::array());
  });
  expect_refusal(backup_from(old_qemu), 1, "QEMU 4.2 or newer is needed");
  for (const std::string& command : seen) {
    EXPECT_TRUE(command.starts_with("query-") || command == "qmp_capabilities") << command;
  }
  EXPECT_EQ(files(), std::vector<std::string>{});
}

TEST_F(MonitorTest, Late_Replies_And_Events_Of_Others_Are_Skipped) {
  const auto noisy = answering([](const nlohmann::json& command) {
    const std::string noise =
        "{\"return\": {\"stale\": 1}, \"id\": \"qmpbackup-0\"}\r\n"
        "{\"event\": \"BLOCK_JOB_COMPLETED\", \"data\": {\"device\": \"other\", \"type\": \"backup\"}}\r\n"
        "{\"error\": {\"class\": \"GenericError\", \"desc\": \"not for you\"}, \"id\": \"someone\"}\r\n";
    return noise + (command.at("execute") == "query-qmp-schema"
                        ? nlohmann::json{{"error", {{"class", "CommandNotFound"}, {"desc", "no schema here"}}},
                                         {"id", command.at("id")}}
                                  .dump() +
                              "\r\n"
                        : reply(command, nlohmann::json::object()));
  });
  expect_refusal(backup_from(noisy), 1, "QEMU refused query-qmp-schema: no schema here");
}

TEST_F(MonitorTest, Replies_That_Arrive_Byte_By_Byte_Are_Put_Together) {
  const auto slow = [](int connection) {
    const auto drip = [&](const std::string& text) {
      for (const char c : text) {
        send_with_descriptors(connection, std::string(1, c), {});
      }
    };
    drip(kGreeting);
    MessageSplitter incoming;
    for (int answered = 0; answered < 2;) {
      Chunk chunk = receive_with_descriptors(connection);
      if (chunk.bytes.empty()) {
        return;
      }
      incoming.add(std::move(chunk));
      while (const auto message = incoming.next()) {
        const auto command = nlohmann::json::parse(message->line);
        drip(answered++ == 0 ? reply(command, nlohmann::json::object())
                             : nlohmann::json{{"error", {{"class", "GenericError"}, {"desc", "drop by drop"}}},
                                              {"id", command.at("id")}}
                                       .dump() +
                                   "\n");
      }
    }
  };
  expect_refusal(backup_from(slow), 1, "drop by drop");
}

TEST_F(MonitorTest, Replies_Of_The_Wrong_Shape_Fail_In_One_Line) {
  for (const char* value : {"null", "5", "\"x\"", "[null]", "[[]]", "{\"a\": 1}"}) {
    const auto odd =
        answering([&](const nlohmann::json& command) { return reply(command, nlohmann::json::parse(value)); });
    const ProgramResult result = backup_from(odd);
    EXPECT_EQ(result.exit_code, 1) << value;
    EXPECT_EQ(lines_of(result.err).size(), 1U) << result.err;
    EXPECT_EQ(result.err.find("json.exception"), std::string::npos) << "a message for nobody: " << result.err;
  }
}

class Signals : public MonitorTest, public testing::WithParamInterface<int> {
 protected:
  // The program, waiting for a greeting that does not come.
  BackgroundProgram start_waiting(const FakeMonitor& monitor, std::vector<std::string> before = {}) const {
    std::vector<std::string> argv = std::move(before);
    for (const std::string& word :
         tool("-socket", path("qmp"), "-backupFile", path("drive0"), "-device", "drive0", "--connect-timeout", "60")) {
      argv.push_back(word);
    }
    BackgroundProgram program(argv);
    for (int i = 0; i < 500 && monitor.connections() == 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    EXPECT_EQ(monitor.connections(), 1);
    return program;
  }
};

TEST_P(Signals, End_A_Wait_At_Once_With_128_Plus_The_Signal) {
  const FakeMonitor monitor(path("qmp"), FakeMonitor::saying(""));
  BackgroundProgram program = start_waiting(monitor);
  program.send_signal(GetParam());
  const ProgramResult result = program.wait(std::chrono::seconds(20));
  EXPECT_FALSE(result.timed_out);
  EXPECT_EQ(result.signal, 0) << "it exits by itself";
  expect_refusal(result, 128 + GetParam(), "signal " + std::to_string(GetParam()));
  EXPECT_EQ(files(), std::vector<std::string>{"qmp"});
}

INSTANTIATE_TEST_SUITE_P(Each, Signals, testing::Values(SIGINT, SIGTERM, SIGHUP));

TEST_F(Signals, A_Hangup_That_Was_Ignored_At_The_Start_Stays_Ignored) {
  const FakeMonitor monitor(path("qmp"), FakeMonitor::saying(""));
  BackgroundProgram program = start_waiting(monitor, {"/bin/sh", "-c", "trap '' HUP; exec \"$0\" \"$@\""});
  program.send_signal(SIGHUP);
  EXPECT_FALSE(program.finished_within(std::chrono::milliseconds(300)));
  program.send_signal(SIGTERM);
  EXPECT_EQ(program.wait(std::chrono::seconds(20)).exit_code, 128 + SIGTERM);
}

}  // namespace
}  // namespace qmpbackup::test
