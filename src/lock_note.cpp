#include "qmpbackup/lock_note.hpp"

#include <fmt/format.h>

namespace qmpbackup {

namespace {

constexpr std::string_view kBegun = "begun";  // no level's file has this name: those end in .qcow2

}  // namespace

LockNote parse_lock_note(std::string_view text) {
  LockNote note;
  for (auto end = text.find('\n'); end != std::string_view::npos; end = text.find('\n')) {
    const std::string_view line = text.substr(0, end);
    const auto space = line.find(' ');
    const auto chain = ChainId::parse(line.substr(0, space));
    if (chain && space != std::string_view::npos && line.substr(space + 1) == kBegun) {
      note.begun = chain;
    } else if (chain && space != std::string_view::npos) {
      note.chain = chain;
      note.newest = line.substr(space + 1);
    }
    text.remove_prefix(end + 1);
  }
  return note;
}

std::string format_lock_note(const LockNote& note) {
  return (note.chain ? fmt::format("{} {}\n", note.chain->text(), note.newest) : "") +
         (note.begun ? fmt::format("{} {}\n", note.begun->text(), kBegun) : "");
}

LockNote with_begun(LockNote note, const ChainId& chain) {
  if (note.chain != chain) {
    note.begun = chain;
  }
  return note;
}

LockNote without_begun(LockNote note, const ChainId& chain) {
  if (note.begun == chain) {
    note.begun.reset();
  }
  return note;
}

LockNote with_newest_level(LockNote note, const Manifest& manifest) {
  note = without_begun(std::move(note), manifest.chain);
  note.chain = manifest.chain;
  note.newest = manifest.levels.back().file;
  return note;
}

}  // namespace qmpbackup
