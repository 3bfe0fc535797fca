#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace qmpbackup {

/// What every failure of this program derives from. `what()` says what failed, on what, and why; `hint()` says what to
/// do next and may be empty. Neither ends in a full stop.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, std::string hint = {})
      : std::runtime_error(message), hint_(std::move(hint)) {}
  [[nodiscard]] const std::string& hint() const { return hint_; }

 private:
  std::string hint_;
};

/// The hint of a wrong command line that needs no other; the subcommand's name is put in where there is one.
inline constexpr auto kSeeHelp = "see qmpbackup --help";

/// The command line is wrong.
class UsageError : public Error {
 public:
  explicit UsageError(const std::string& message, std::string hint = kSeeHelp) : Error(message, std::move(hint)) {}
};

/// QEMU cannot be reached, or does not answer.
class ConnectError : public Error {
  using Error::Error;
};

/// There is no QEMU at this address: no socket, or nobody listens on it.
class NobodyListens : public ConnectError {
  using ConnectError::ConnectError;
};

/// The connection broke, or no reply came in time: what became of the last command is not known, so look again.
class ConnectionLost : public ConnectError {
  using ConnectError::ConnectError;
};

/// QEMU refused a command.
class QmpError : public Error {
 public:
  QmpError(const std::string& command, const std::string& description)
      : Error("QEMU refused " + command + ": " + description) {}
};

/// What is on disk contradicts itself or what was asked for; nothing was changed.
class ChainError : public Error {
  using Error::Error;
};

/// This chain cannot go on; only a new full backup helps.
class NewFullNeeded : public ChainError {
  using ChainError::ChainError;
};

/// Another run holds the chain.
class ChainBusy : public Error {
  using Error::Error;
};

/// A check found damage in a chain.
class DamageFound : public Error {
  using Error::Error;
};

/// This program or one that it runs had no descriptors, no memory or no time, was killed, or is not installed. Says
/// nothing about the files that it was to read.
class ResourceError : public Error {
  using Error::Error;
};

/// A signal asked the run to end.
class Interrupted : public Error {
 public:
  explicit Interrupted(int signal_number, std::string hint = {})
      : Error("ended by signal " + std::to_string(signal_number), std::move(hint)), signal_number_(signal_number) {}
  [[nodiscard]] int signal_number() const { return signal_number_; }

 private:
  int signal_number_;
};

}  // namespace qmpbackup
