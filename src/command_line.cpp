#include "qmpbackup/command_line.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <filesystem>
#include <iostream>
#include <new>
#include <string>
#include <system_error>
#include <vector>

#include "qmpbackup/arguments.hpp"
#include "qmpbackup/commands.hpp"
#include "qmpbackup/errors.hpp"
#include "qmpbackup/version.hpp"

namespace qmpbackup {
namespace {

constexpr auto kFooter = R"(Examples:
  qmpbackup -socket /run/vm1.qmp -backupFile /backup/vm1 -deviceToBackup drive0
      a full; with -inc 0 the first incremental; every night with -inc auto:
      the next level, or a full where none is possible
  qmpbackup restore -backupFile /backup/vm1 --output restored.qcow2
      or without qmpbackup: qemu-img convert -O qcow2 FILE restored.qcow2

Exit codes:
  0  done                                4  QEMU cannot be reached, or broke off
  1  failed; the chain is as it was      5  another run holds this chain
  2  the command line is wrong           6  verify found damage
  3  this chain needs a new full       128+n  ended by signal n
)";

constexpr std::array<std::string_view, 7> kGoOptions{"socket",      "backupFile", "deviceToBackup", "device", "inc",
                                                     "cleanBitmap", "v"};

constexpr std::size_t kHelpColumn = 32;

/// As rewrite_arguments has them: "--socket=ADDR" was "-socket ADDR".
std::string as_typed(const std::string& argument) {
  for (const std::string_view name : kGoOptions) {
    if (argument == fmt::format("--{}", name) || argument.starts_with(fmt::format("--{}=", name))) {
      return fmt::format("-{}", name);
    }
  }
  return argument;
}

/// CLI11's help, calmer: the options of the Go tool as its users know them, with one dash, and one empty line between
/// groups.
std::string help_text(const CLI::App& app) {
  std::string text = app.help(app.get_parent() == nullptr ? "" : app.get_parent()->get_name());
  for (const std::string_view name : kGoOptions) {
    if (const auto at = text.find(fmt::format("\n  --{} ", name)); at != std::string::npos) {
      text.insert(at + 1 + kHelpColumn, " ");
      text.erase(at + 3, 1);
    }
  }
  for (auto at = text.find("\n\n\n"); at != std::string::npos; at = text.find("\n\n\n", at)) {
    text.erase(at, 1);
  }
  return text;
}

void print(const std::string& text) {
  std::cout << text << std::flush;
  if (!std::cout) {
    throw Error("cannot write to standard output", "see where it leads");
  }
}

void parse(CLI::App& app, const std::vector<std::string>& arguments) {
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());  // as CLI11 wants them
  try {
    app.parse(reversed);
  } catch (const CLI::ExtrasError&) {
    throw UsageError(fmt::format("unknown argument '{}'", as_typed(app.remaining(true).front())));
  } catch (const CLI::ArgumentMismatch& error) {
    const std::string what = error.what();
    throw UsageError(fmt::format("{} needs a value", what.substr(0, what.find(':'))));
  } catch (const CLI::ValidationError& error) {
    const std::string what = error.what();
    throw UsageError(fmt::format("{} is empty", what.substr(0, what.find(':'))));
  } catch (const CLI::ParseError& error) {
    throw UsageError(error.what());
  }
}

/// Options stand before or after a subcommand; those that it does not have are a mistake.
void refuse_foreign_options(const CLI::App& app) {
  for (const CLI::App* command : app.get_subcommands()) {
    for (const CLI::Option* option : app.get_options()) {
      if (option->count() > 0 && command->get_option_no_throw(option->get_name()) == nullptr) {
        throw UsageError(fmt::format("{} takes no {}", command->get_name(), as_typed(option->get_name())));
      }
    }
  }
}

/// Of two disks or two chains the last one alone would be backed up, in silence.
void refuse_two_values(const CLI::App& app) {
  for (const CLI::Option* option : app.get_options()) {
    const std::vector<std::string>& values = option->results();
    const auto other = std::find_if(values.begin(), values.end(), [&](const auto& v) { return v != values.front(); });
    if (option->get_group() == kWhat && other != values.end()) {
      throw UsageError(
          fmt::format("{} is there twice, with {} and {}", as_typed(option->get_name()), values.front(), *other),
          "give it once: a run backs up one disk");
    }
  }
}

bool asks_for_json(const std::vector<std::string>& arguments) {
  return std::any_of(arguments.begin(), arguments.end(), [](const std::string& argument) {
    return argument == "--json" || argument == "--json=true" || argument == "--json=1";
  });
}

/// The exit code of the design's table for an error.
int exit_code_for(const std::exception& error) {
  if (dynamic_cast<const UsageError*>(&error) != nullptr) {
    return 2;
  }
  if (dynamic_cast<const NewFullNeeded*>(&error) != nullptr) {
    return 3;
  }
  if (dynamic_cast<const ConnectError*>(&error) != nullptr) {
    return 4;
  }
  if (dynamic_cast<const ChainBusy*>(&error) != nullptr) {
    return 5;
  }
  if (dynamic_cast<const DamageFound*>(&error) != nullptr) {
    return 6;
  }
  if (const auto* interrupted = dynamic_cast<const Interrupted*>(&error)) {
    return 128 + interrupted->signal_number();
  }
  return 1;
}

struct Words {
  std::string message;
  std::string hint;
};

/// What an error says. The texts of libraries are not for people: theirs are put into words here.
Words words_of(const std::exception& error) {
  constexpr int kNotUtf8 = 316;  // nlohmann::json's number for it
  if (const auto* ours = dynamic_cast<const Error*>(&error)) {
    return {ours->what(), ours->hint()};
  }
  if (const auto* json = dynamic_cast<const nlohmann::json::exception*>(&error)) {
    if (json->id == kNotUtf8) {
      return {"the path of the chain or of the output is not valid UTF-8, and QEMU's programs take UTF-8 names only",
              "rename the folder, or use another one"};
    }
    return {fmt::format("what was read has an unexpected form (JSON error {})", json->id), "try again with -v"};
  }
  if (const auto* file = dynamic_cast<const std::filesystem::filesystem_error*>(&error)) {
    const std::string path = file->path1().string();
    return {fmt::format("cannot use {}: {}", path.empty() ? "the working folder" : path, file->code().message()),
            "check that it is there, and its mode; paths from / on do not need the working folder"};
  }
  if (const auto* system = dynamic_cast<const std::system_error*>(&error)) {
    return {"the system refused: " + system->code().message(), "try again"};
  }
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    return {"there is no memory left", "try again when there is more"};
  }
  return {error.what(), ""};
}

/// `command`: the subcommand that was typed, if any.
int report(Reporter& reporter, const std::exception& error, const std::string& command) {
  const int code = exit_code_for(error);
  Words words = words_of(error);
  if (words.hint == kSeeHelp && !command.empty()) {
    words.hint = fmt::format("see qmpbackup {} --help", command);
  }
  reporter.error(code, words.message, words.hint);
  return code;
}

/// Runs what was typed; errors from here on are reported as `invocation` asks.
int run(const Invocation& invocation, const std::string& command) {
  Reporter reporter(check_reporter(invocation));
  try {
    EventLoop loop;
    invocation.run(loop, reporter);
    reporter.throw_if_output_failed();
    return 0;
  } catch (const std::exception& error) {
    return report(reporter, error, command);
  }
}

}  // namespace

int run_command_line(int argc, const char* const* argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  std::string typed_command;
  try {
    CLI::App app("Live full and incremental backups of QEMU disks over QMP.", "qmpbackup");
    app.set_help_flag();
    app.footer(kFooter);
    app.get_formatter()->column_width(kHelpColumn);
    app.require_subcommand(0, 1);
    Invocation invocation;
    bool version = false;
    add_backup_command(app, invocation);
    add_flag(app, "--version", version, "print the version", kOutput);
    add_output_options(app, invocation);
    for (const auto add :
         {add_list_command, add_verify_command, add_restore_command, add_merge_command, add_info_command}) {
      add(app, invocation);
    }
    for (CLI::App* command : app.get_subcommands([](CLI::App*) { return true; })) {
      command->set_help_flag();
    }
    for (CLI::App* sub : app.get_subcommands([](CLI::App*) { return true; })) {
      sub->preparse_callback([&typed_command, sub](std::size_t) { typed_command = sub->get_name(); });
    }
    parse(app, rewrite_arguments(arguments));
    refuse_foreign_options(app);
    refuse_two_values(app);
    if (invocation.help) {
      const auto commands = app.get_subcommands();
      print(help_text(commands.empty() ? app : *commands.front()));
      return 0;
    }
    if (version) {
      print(fmt::format("qmpbackup {}\n", kVersion));
      return 0;
    }
    return run(invocation, typed_command);
  } catch (const std::exception& error) {
    Reporter reporter({asks_for_json(arguments), false, ProgressMode::kNever});
    return report(reporter, error, typed_command);
  }
}

}  // namespace qmpbackup
