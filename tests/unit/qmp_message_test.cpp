// Lines from QEMU, hostile ones too, and what the schema says exists.
#include "qmpbackup/qmp_message.hpp"

#include <gtest/gtest.h>

namespace qmpbackup {
namespace {

using nlohmann::json;

template <class Kind>
Kind parse_as(std::string_view line) {
  return std::get<Kind>(parse_qmp_message(line));
}

TEST(QmpMessage, Greeting_Tells_The_Version) {
  EXPECT_EQ(parse_as<QmpGreeting>(
                R"({"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"},
                    "capabilities": ["oob"]}})")
                .version,
            "7.2.22");
  EXPECT_EQ(parse_as<QmpGreeting>(R"({"QMP": {}})").version, "0.0.0");
}

TEST(QmpMessage, Reply_Carries_Its_Id_And_Any_Value) {
  const auto reply = parse_as<QmpReply>(R"({"return": [1, {"a": null}], "id": "qmpbackup-7"})");
  EXPECT_EQ(reply.id, "qmpbackup-7");
  EXPECT_EQ(reply.value, json::parse(R"([1, {"a": null}])"));
  EXPECT_TRUE(parse_as<QmpReply>(R"({"return": {}, "id": 5})").id.empty()) << "an id of another type is not ours";
}

TEST(QmpMessage, Error_Carries_Its_Class_And_Words) {
  const auto error =
      parse_as<QmpErrorReply>(R"({"id": "q-1", "error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}})");
  EXPECT_EQ(error.id, "q-1");
  EXPECT_EQ(error.error_class, "DeviceNotFound");
  EXPECT_EQ(error.description, "Device 'x' not found");
  EXPECT_TRUE(parse_as<QmpErrorReply>(R"({"error": "words"})").description.empty());
}

TEST(QmpMessage, Event_Carries_Its_Data) {
  const auto event = parse_as<QmpEvent>(
      R"({"timestamp": {"seconds": 1, "microseconds": 2}, "event": "BLOCK_JOB_COMPLETED",
          "data": {"device": "qmpbackup-x", "len": 5}})");
  EXPECT_EQ(event.name, "BLOCK_JOB_COMPLETED");
  EXPECT_EQ(event.data.at("len"), 5);
  EXPECT_TRUE(parse_as<QmpEvent>(R"({"event": "STOP"})").data.is_object());
  EXPECT_TRUE(parse_as<QmpEvent>(R"({"event": "STOP", "data": 3})").data.empty());
}

TEST(QmpMessage, Events_Name_Their_Job) {
  EXPECT_EQ(job_of_event({"BLOCK_JOB_COMPLETED", {{"device", "j1"}, {"id", "x"}}}), "j1");
  EXPECT_EQ(job_of_event({"BLOCK_JOB_ERROR", {{"device", "j1"}}}), "j1");
  EXPECT_EQ(job_of_event({"JOB_STATUS_CHANGE", {{"id", "j2"}, {"status", "concluded"}}}), "j2");
  EXPECT_FALSE(job_of_event({"STOP", {{"id", "j2"}, {"device", "j1"}}}));
  EXPECT_FALSE(job_of_event({"BLOCK_IO_ERROR", {{"device", "drive0"}}}));
  EXPECT_EQ(job_of_event({"BLOCK_JOB_COMPLETED", {{"device", 5}}}), "") << "a job of no name is nobody's";
}

TEST(QmpMessage, Refuses_What_Is_No_QMP) {
  for (const char* line : {"",
                           " ",
                           "garbage",
                           "QEMU 7.2.22 monitor - type 'help' for more information",
                           "(qemu)",
                           "null",
                           "1",
                           "[]",
                           "\"return\"",
                           "{",
                           "{}",
                           R"({"return": )",
                           R"({"retur": {}})",
                           R"({"event": 5})",
                           R"({"event": null})",
                           R"({"QMP": 5})",
                           R"({"QMP": null})",
                           R"({"QMP": {"version": {"qemu": {"major": "seven"}}}})",
                           R"({"return": {}} trailing)",
                           "{\"return\": \"\xff\"}",
                           R"({"return": 01})",
                           R"([{"return": {}}])"}) {
    EXPECT_THROW(parse_qmp_message(line), QmpSyntaxError) << line;
  }
}

TEST(QmpMessage, Cut_At_Any_Length_Is_Refused_And_Never_Misread) {
  const std::string line =
      R"({"return": {"a": [1, -2.5e3, "x\u00e4\"y", null, true]}, "id": "qmpbackup-1", "error_count": {"n": 1}})";
  for (std::size_t length = 0; length < line.size(); ++length) {
    EXPECT_THROW(parse_qmp_message(line.substr(0, length)), QmpSyntaxError) << length;
  }
  EXPECT_NO_THROW(parse_qmp_message(line));
}

TEST(QmpMessage, A_Line_Of_Any_Size_Is_Taken) {
  const std::string value(300'000, 'x');
  EXPECT_EQ(parse_as<QmpReply>("{\"return\": \"" + value + "\"}").value, value);
}

TEST(QmpMessage, Nested_Deeper_Than_QEMU_Ever_Does_Is_Refused_Instead_Of_Overflowing_The_Stack) {
  const auto nested = [](std::size_t depth) {
    return "{\"return\": " + std::string(depth, '[') + std::string(depth, ']') + "}";
  };
  EXPECT_NO_THROW(parse_qmp_message(nested(50)));
  EXPECT_THROW(parse_qmp_message(nested(1000)), QmpSyntaxError);
  EXPECT_THROW(parse_qmp_message(nested(1'000'000)), QmpSyntaxError);
}

TEST(QmpMessage, Refusal_Quotes_Only_The_Beginning) {
  try {
    parse_qmp_message(std::string(100'000, 'x'));
    FAIL();
  } catch (const QmpSyntaxError& error) {
    EXPECT_LT(std::string(error.what()).size(), 200U);
    EXPECT_FALSE(error.hint().empty());
  }
}

TEST(QmpMessage, Command_Has_Arguments_Only_When_There_Are_Some) {
  EXPECT_EQ(to_json(QmpCommand{"query-jobs"}), json::parse(R"({"execute": "query-jobs"})"));
  EXPECT_EQ(to_json(QmpCommand{"job-dismiss", {{"id", "j"}}}),
            json::parse(R"({"execute": "job-dismiss", "arguments": {"id": "j"}})"));
}

const char* const kSchema = R"([
  {"name": "blockdev-backup", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
  {"name": "blockdev-create", "meta-type": "command", "arg-type": "4", "ret-type": "0"},
  {"name": "stop", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
  {"name": "SHUTDOWN", "meta-type": "event", "arg-type": "0"},
  {"name": "0", "meta-type": "object", "members": []},
  {"name": "1", "meta-type": "object", "members": [{"name": "sync", "type": "2"}, {"name": "bitmap-mode", "type": "3"},
                                                   {"name": "tags", "type": "[8]"}]},
  {"name": "2", "meta-type": "enum", "values": ["top", "full", "bitmap"]},
  {"name": "3", "meta-type": "enum", "values": ["never", "always"]},
  {"name": "4", "meta-type": "object", "members": [{"name": "options", "type": "5"}]},
  {"name": "5", "meta-type": "object", "tag": "driver", "members": [{"name": "driver", "type": "6"}],
   "variants": [{"case": "file", "type": "0"}, {"case": "qcow2", "type": "7"}]},
  {"name": "6", "meta-type": "enum", "values": ["file", "qcow2"]},
  {"name": "7", "meta-type": "object", "members": [{"name": "compression-type", "type": "9"}]},
  {"name": "[8]", "meta-type": "array", "element-type": "8"},
  {"name": "8", "meta-type": "object", "members": [{"name": "key", "type": "str"}]},
  {"name": "9", "meta-type": "enum", "values": ["zlib", "zstd"]}
])";

TEST(QmpSchema, Knows_Commands_And_Does_Not_Take_Events_For_Them) {
  const QmpSchema schema(json::parse(kSchema));
  EXPECT_TRUE(schema.has_command("stop"));
  EXPECT_FALSE(schema.has_command("SHUTDOWN"));
  EXPECT_FALSE(schema.has_command("1"));
  EXPECT_FALSE(schema.has_command("blockdev-reopen"));
}

TEST(QmpSchema, Walks_Members_Variants_And_Arrays) {
  const QmpSchema schema(json::parse(kSchema));
  EXPECT_TRUE(schema.has_argument("blockdev-backup", {"sync"}));
  EXPECT_FALSE(schema.has_argument("blockdev-backup", {"filter-node-name"}));
  EXPECT_TRUE(schema.has_argument("blockdev-create", {"options", "compression-type"})) << "in one variant only";
  EXPECT_TRUE(schema.has_argument("blockdev-backup", {"tags", "key"}));
  EXPECT_FALSE(schema.has_argument("blockdev-backup", {"sync", "key"}));
  EXPECT_FALSE(schema.has_argument("stop", {"sync"}));
  EXPECT_FALSE(schema.has_argument("SHUTDOWN", {"sync"}));
}

TEST(QmpSchema, Knows_The_Values_Of_An_Enumeration) {
  const QmpSchema schema(json::parse(kSchema));
  EXPECT_TRUE(schema.has_value("blockdev-backup", {"bitmap-mode"}, "never"));
  EXPECT_FALSE(schema.has_value("blockdev-backup", {"bitmap-mode"}, "on-success"));
  EXPECT_TRUE(schema.has_value("blockdev-create", {"options", "compression-type"}, "zstd"));
  EXPECT_FALSE(schema.has_value("blockdev-create", {"options"}, "zstd")) << "an object has no values";
}

TEST(QmpSchema, Survives_Hostile_Schemas) {
  for (const char* text :
       {R"(null)", R"(5)", R"("text")", R"({})", R"([])", R"([null, 5, "x", [], {}])", R"([{"name": 5}])",
        R"([{"name": "c", "meta-type": "command"}])", R"([{"name": "c", "meta-type": "command", "arg-type": "c"}])",
        R"([{"name": "c", "meta-type": "command", "arg-type": "o"}, {"name": "o", "members": 5, "variants": "x"}])",
        R"([{"name": "c", "meta-type": "command", "arg-type": "o"},
            {"name": "o", "members": [5, null, {"name": 3}], "variants": [null, {"type": 5}]}])",
        R"([{"name": "c", "meta-type": "command", "arg-type": "o"},
            {"name": "o", "variants": [{"type": "o"}, {"type": "o"}, {"type": "o"}]}])",
        R"([{"name": "c", "meta-type": "command", "arg-type": "a"},
            {"name": "a", "meta-type": "array", "element-type": "a"}])"}) {
    const QmpSchema schema(json::parse(text));
    EXPECT_FALSE(schema.has_argument("c", {"m"})) << text;
    EXPECT_FALSE(schema.has_argument("c", {"m", "n"})) << text;
    EXPECT_FALSE(schema.has_value("c", {"m"}, "v")) << text;
  }
}

}  // namespace
}  // namespace qmpbackup
