#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <variant>

#include "qmpbackup/errors.hpp"

namespace qmpbackup {

/// A command as it goes to QEMU, without its id.
struct QmpCommand {
  std::string name;
  nlohmann::json arguments = nlohmann::json::object();
};

/// {"execute": name, "arguments": {...}}, the latter only when there are some.
nlohmann::json to_json(const QmpCommand& command);

struct QmpGreeting {
  std::string version;  ///< "7.2.22"
};

struct QmpReply {
  std::string id;  ///< empty where QEMU could not read the command's id
  nlohmann::json value;
};

struct QmpErrorReply {
  std::string id;
  std::string error_class;
  std::string description;
};

struct QmpEvent {
  std::string name;
  nlohmann::json data = nlohmann::json::object();
};

using QmpMessage = std::variant<QmpGreeting, QmpReply, QmpErrorReply, QmpEvent>;

/// A line is no QMP message.
class QmpSyntaxError : public ConnectError {
  using ConnectError::ConnectError;
};

/// One line from QEMU. Throws QmpSyntaxError.
QmpMessage parse_qmp_message(std::string_view line);

/// The job that an event is about: `id` of JOB_STATUS_CHANGE, `device` of BLOCK_JOB_*. Nothing for other events.
std::optional<std::string> job_of_event(const QmpEvent& event);

/// What `query-qmp-schema` says exists. Older QEMUs are told apart by what they can do, never by their number.
class QmpSchema {
 public:
  /// `reply`: the array that query-qmp-schema returns; entries that are not understood are skipped.
  explicit QmpSchema(const nlohmann::json& reply);

  [[nodiscard]] bool has_command(std::string_view command) const;
  /// Whether a command has an argument, in any variant of its argument type, and below it further members ("options",
  /// "compression-type").
  [[nodiscard]] bool has_argument(std::string_view command, std::initializer_list<std::string_view> path) const;
  /// Whether the enumeration at the end of the path has a value.
  [[nodiscard]] bool has_value(std::string_view command, std::initializer_list<std::string_view> path,
                               std::string_view value) const;

 private:
  /// The type at the end of a path of members, empty where there is none.
  [[nodiscard]] std::string type_at(std::string_view command, std::initializer_list<std::string_view> path) const;
  /// `seen`: the types on the way there; a hostile schema refers to itself.
  [[nodiscard]] std::string member_type(const std::string& object, std::string_view member,
                                        std::set<std::string>& seen) const;

  nlohmann::json entities_ = nlohmann::json::object();  ///< by name
};

}  // namespace qmpbackup
