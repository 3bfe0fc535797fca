#include "qmpbackup/lock_note.hpp"

#include <fmt/format.h>

namespace qmpbackup {

namespace {

// No level's file is called so: those end in .qcow2.
constexpr std::string_view kBegun = "begun ";
constexpr std::string_view kReplaced = "replaced";

void add_past(LockNote& note, PastChain past) {
  constexpr std::size_t kMost = 4;  // what a bitmap below a snapshot, which cannot be removed yet, needs
  note = without_past(std::move(note), past.chain);
  if (note.past.size() == kMost) {
    note.past.erase(note.past.begin());
  }
  note.past.push_back(std::move(past));
}

void add_line(LockNote& note, const ChainId& chain, std::string_view words) {
  if (words == kReplaced) {
    add_past(note, {chain});
  } else if (words.starts_with(kBegun)) {
    if (const auto level = parse_level_name(words.substr(kBegun.size()))) {
      add_past(note, {chain, level});
    }
  } else if (!note.chain) {
    note.chain = chain;
    note.newest = words;
  }
}

}  // namespace

LockNote parse_lock_note(std::string_view text) {
  LockNote note;
  for (auto end = text.find('\n'); end != std::string_view::npos; end = text.find('\n')) {
    const std::string_view line = text.substr(0, end);
    const auto space = line.find(' ');
    const auto chain = ChainId::parse(line.substr(0, space));
    if (chain && space != std::string_view::npos) {
      add_line(note, *chain, line.substr(space + 1));
    }
    text.remove_prefix(end + 1);
  }
  return note;
}

std::string format_lock_note(const LockNote& note) {
  std::string text = note.chain ? fmt::format("{} {}\n", note.chain->text(), note.newest) : "";
  for (const PastChain& past : note.past) {
    text += past.begun ? fmt::format("{} {}{}\n", past.chain.text(), kBegun, level_name(*past.begun))
                       : fmt::format("{} {}\n", past.chain.text(), kReplaced);
  }
  return text;
}

LockNote with_begun(LockNote note, const ChainId& chain, Level level) {
  if (note.chain != chain) {
    add_past(note, {chain, level});
  }
  return note;
}

LockNote without_past(LockNote note, const ChainId& chain) {
  std::erase_if(note.past, [&](const PastChain& past) { return past.chain == chain; });
  return note;
}

LockNote with_newest_level(LockNote note, const Manifest& manifest) {
  note = without_past(std::move(note), manifest.chain);
  for (const ChainId& replaced : manifest.replaces) {
    add_past(note, {replaced});
  }
  note.chain = manifest.chain;
  note.newest = manifest.levels.back().file;
  return note;
}

}  // namespace qmpbackup
