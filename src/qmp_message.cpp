#include "qmpbackup/qmp_message.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "qmpbackup/json_text.hpp"

namespace qmpbackup {
namespace {

using nlohmann::json;

std::string version_of(const json& greeting) {
  const auto number = [&](const char* part) {
    return greeting.value(json::json_pointer(std::string("/version/qemu/") + part), std::int64_t{0});
  };
  return fmt::format("{}.{}.{}", number("major"), number("minor"), number("micro"));
}

}  // namespace

json to_json(const QmpCommand& command) {
  json object{{"execute", command.name}};
  if (!command.arguments.empty()) {
    object["arguments"] = command.arguments;
  }
  return object;
}

QmpMessage parse_qmp_message(std::string_view line) {
  const json message = parse_json(line);
  if (!message.is_object()) {
    throw QmpSyntaxError(fmt::format("QEMU sent something that is not QMP: '{}'", line.substr(0, 60)),
                         "check that -socket names a QMP monitor, not a human monitor or a serial port");
  }
  try {
    if (message.contains("QMP")) {
      return QmpGreeting{version_of(message.at("QMP"))};
    }
    if (message.contains("event")) {
      QmpEvent event{message.at("event").get<std::string>(), json::object()};
      if (const auto data = message.find("data"); data != message.end() && data->is_object()) {
        event.data = *data;
      }
      return event;
    }
    if (message.contains("error")) {
      const json& error = message.at("error");
      return QmpErrorReply{text_of(message, "id"), text_of(error, "class"), text_of(error, "desc")};
    }
    if (message.contains("return")) {
      return QmpReply{text_of(message, "id"), message.at("return")};
    }
  } catch (const json::exception&) {
    // Falls through to the error below: the keys are there, their values are not what QMP says.
  }
  throw QmpSyntaxError(fmt::format("QEMU sent a message of no known kind: '{}'", line.substr(0, 60)));
}

std::optional<std::string> job_of_event(const QmpEvent& event) {
  const char* key = nullptr;
  if (event.name == "JOB_STATUS_CHANGE") {
    key = "id";
  } else if (event.name.starts_with("BLOCK_JOB_")) {
    key = "device";
  } else {
    return std::nullopt;
  }
  return text_of(event.data, key);
}

QmpSchema::QmpSchema(const json& reply) {
  for (const json& entity : reply) {
    if (entity.is_object()) {
      if (std::string name = text_of(entity, "name"); !name.empty()) {
        entities_[name] = entity;
      }
    }
  }
}

bool QmpSchema::has_command(std::string_view command) const {
  const auto found = entities_.find(command);
  return found != entities_.end() && text_of(*found, "meta-type") == "command";
}

bool QmpSchema::has_argument(std::string_view command, std::initializer_list<std::string_view> path) const {
  return !type_at(command, path).empty();
}

bool QmpSchema::has_value(std::string_view command, std::initializer_list<std::string_view> path,
                          std::string_view value) const {
  const auto found = entities_.find(type_at(command, path));
  if (found == entities_.end()) {
    return false;
  }
  const auto values = found->find("values");
  return values != found->end() && std::find(values->begin(), values->end(), value) != values->end();
}

std::string QmpSchema::type_at(std::string_view command, std::initializer_list<std::string_view> path) const {
  if (!has_command(command)) {
    return {};
  }
  std::string type = text_of(entities_.at(std::string(command)), "arg-type");
  for (const std::string_view member : path) {
    std::set<std::string> seen;
    type = member_type(type, member, seen);
  }
  return type;
}

std::string QmpSchema::member_type(const std::string& object, std::string_view member,
                                   std::set<std::string>& seen) const {
  const auto found = entities_.find(object);
  if (found == entities_.end() || !seen.insert(object).second) {
    return {};
  }
  if (text_of(*found, "meta-type") == "array") {
    return member_type(text_of(*found, "element-type"), member, seen);
  }
  for (const json& candidate : found->value("members", json::array())) {
    if (candidate.is_object() && text_of(candidate, "name") == member) {
      return text_of(candidate, "type");
    }
  }
  for (const json& variant : found->value("variants", json::array())) {
    if (variant.is_object()) {
      if (std::string type = member_type(text_of(variant, "type"), member, seen); !type.empty()) {
        return type;
      }
    }
  }
  return {};
}

}  // namespace qmpbackup
