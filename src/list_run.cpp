#include "qmpbackup/list_run.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "qmpbackup/chain_reader.hpp"
#include "qmpbackup/chain_watch.hpp"
#include "qmpbackup/checksums.hpp"
#include "qmpbackup/clock.hpp"
#include "qmpbackup/errors.hpp"
#include "qmpbackup/files.hpp"
#include "qmpbackup/folders.hpp"
#include "qmpbackup/merge_finisher.hpp"
#include "qmpbackup/table.hpp"

namespace qmpbackup {
namespace {

using nlohmann::json;

struct Listing {
  ChainFiles files;
  ChainOnDisk chain;
  std::vector<LevelView> levels;
  std::vector<std::string> archives{};  ///< folders, oldest first
  bool held = false;                    ///< a run works on it now
};

bool holds_levels(const ChainFiles& files) {
  try {
    const std::vector<std::string> names = list_folder(files.folder());
    return std::any_of(names.begin(), names.end(),
                       [&](const std::string& name) { return files.level_of_file(name).has_value(); });
  } catch (const FileError&) {  // a folder of such a name that is closed to us is most likely one
    return true;
  }
}

Listing look(EventLoop& loop, const ChainFiles& files) {
  finish_merge_if_possible(files);
  Listing listing{files, {}, {}};
  for_steady_chain(loop, files, [&](const ChainWatch& watch, int) {
    listing.held = is_held_by_a_run(files);
    listing.chain = read_chain_to_restore(loop, files);
    listing.levels = view_with_checksums(listing.chain, files);
    if (std::any_of(listing.levels.begin(), listing.levels.end(),
                    [](const LevelView& level) { return level.fault.has_value(); })) {
      watch.throw_if_changed();
    }
  });
  mark_levels_above_faults(listing.levels);
  for (const std::string& name : list_folder(files.folder())) {
    const auto time = files.time_of_archive(name);
    if (time && holds_levels(files.archived(*time))) {
      listing.archives.push_back(files.archived(*time).folder());
    }
  }
  std::sort(listing.archives.begin(), listing.archives.end());
  return listing;
}

bool is_empty(const Listing& listing) {
  return listing.levels.empty() && listing.chain.manifest_state == ManifestState::kAbsent && listing.archives.empty();
}

/// The chains that `base` means. `some_failed`: of a folder's.
std::vector<Listing> find_chains(EventLoop& loop, Reporter& reporter, const std::string& base, bool& some_failed) {
  if (!is_folder(base)) {
    return {look(loop, ChainFiles(base))};
  }
  if (!base.ends_with('/')) {  // a chain may have a folder's name
    try {
      if (Listing chain = look(loop, ChainFiles(base)); !is_empty(chain)) {
        return {std::move(chain)};
      }
    } catch (const FileError&) {  // the folder above is closed to us
    }
  }
  std::set<std::string> names;
  for (const std::string& file : list_folder(base)) {
    if (auto name = ChainFiles::name_of_chain(file)) {
      names.insert(*name);
    }
  }
  const std::string front = base.ends_with('/') ? base : base + "/";
  std::vector<Listing> listings;
  listings.reserve(names.size());
  for (const std::string& name : names) {
    try {
      listings.push_back(look(loop, ChainFiles(front + name)));
    } catch (const Interrupted&) {
      throw;
    } catch (const Error& error) {  // the other chains are shown all the same
      reporter.warning(fmt::format("{}{} cannot be listed: {}", front, name, error.what()));
      some_failed = true;
    }
  }
  return listings;
}

std::string state_of_manifest(const Listing& listing) {
  switch (listing.chain.manifest_state) {
    case ManifestState::kAbsent:
      return "missing";
    case ManifestState::kGood:
      return "good";
    case ManifestState::kDamaged:
      return "damaged";
    case ManifestState::kTooNew:
      return "too new";
  }
  return "missing";
}

ByteCount total_size(const Listing& listing) {
  ByteCount total = 0;
  for (const LevelView& level : listing.levels) {
    total += level.record.file_size;
  }
  return total;
}

json to_json(const Listing& listing) {
  json levels = json::array();
  for (const LevelView& level : listing.levels) {
    json object = to_json(level.record);
    if (!level.from_manifest || level.record.was_made_elsewhere()) {
      object["bytes_copied"] = nullptr;
    }
    object["fault"] = level.fault ? json(*level.fault) : json(nullptr);
    levels.push_back(std::move(object));
  }
  json pending = nullptr;
  if (listing.chain.manifest && listing.chain.manifest->pending) {
    const Pending& run = *listing.chain.manifest->pending;
    pending = {{"level", run.level.number}, {"started", run.started}, {"partial", run.partial}};
  }
  return {
      {"chain", listing.chain.manifest ? json(listing.chain.manifest->chain.text()) : json(nullptr)},
      {"base", listing.files.base()},
      {"manifest", state_of_manifest(listing)},
      {"levels", std::move(levels)},
      {"merged", listing.chain.manifest && listing.chain.manifest->merged ? json(listing.chain.manifest->merged->number)
                                                                          : json(nullptr)},
      {"pending", std::move(pending)},
      {"running", listing.held},
      {"archived", listing.archives}};
}

std::vector<std::string> table_of(const Listing& listing) {
  std::vector<std::vector<std::string>> rows{{"level", "point in time", "changed", "written", "disk", "packed", "sum"}};
  for (const LevelView& level : listing.levels) {
    const LevelRecord& record = level.record;
    const bool known = level.from_manifest || listing.chain.file_of(record.level) != nullptr;
    rows.push_back({level_name(record.level), known ? format_local(record.time) : "?",
                    level.fault                                           ? "UNUSABLE"
                    : level.from_manifest && !record.was_made_elsewhere() ? format_size(record.bytes_copied)
                                                                          : "?",
                    known ? format_size(record.file_size) : "-", known ? format_size(record.virtual_size) : "-",
                    level.from_manifest && !record.was_made_elsewhere() ? record.compression : "?",
                    record.sha256 ? "yes" : "no"});
  }
  return format_table(
      {Align::kLeft, Align::kLeft, Align::kRight, Align::kRight, Align::kRight, Align::kLeft, Align::kLeft}, rows);
}

void print(Reporter& reporter, const Listing& listing) {
  std::string title = listing.files.base();
  if (const auto& manifest = listing.chain.manifest) {
    title += fmt::format(": {}{}", manifest->device, manifest->vm.name.empty() ? "" : " of " + manifest->vm.name);
  }
  reporter.line(title);
  if (listing.chain.manifest_state != ManifestState::kGood) {
    reporter.line(
        fmt::format("  the manifest is {}; the levels are read from their files, times are those of the files",
                    state_of_manifest(listing)));
  }
  for (const std::string& line : table_of(listing)) {
    reporter.line("  " + line);
  }
  for (const LevelView& level : listing.levels) {
    if (level.fault) {
      reporter.line(fmt::format("  {}: {}", level_name(level.record.level), *level.fault));
    }
  }
  if (listing.chain.manifest && listing.chain.manifest->pending) {
    const Pending& run = *listing.chain.manifest->pending;
    reporter.line(fmt::format("  pending: level {}, begun {}; {}", level_name(run.level), format_local(run.started),
                              listing.held ? "a run works on it now" : "the next backup resolves it"));
  }
  if (listing.chain.manifest && listing.chain.manifest->merged) {
    reporter.line(fmt::format("  merged: {} are in the full",
                              Level{0} == *listing.chain.manifest->merged
                                  ? "the changes of inc0"
                                  : "the changes of inc0 to " + level_name(*listing.chain.manifest->merged)));
  }
  if (listing.chain.manifest && listing.chain.manifest->pending_merge) {
    reporter.line(listing.held ? "  a merge is putting its files in place now"
                               : "  a merge was ended before its files were in place; whoever may write here "
                                 "finishes it with qmpbackup list");
  }
  reporter.line(fmt::format("  {} level{}, {} in all", listing.levels.size(), listing.levels.size() == 1 ? "" : "s",
                            format_size(total_size(listing))));
  if (const auto beyond = file_beyond_manifest(listing.chain, listing.files)) {
    reporter.line(fmt::format("  {} is not in the manifest, which may be an older copy", *beyond));
  }
  for (const std::string& archive : listing.archives) {
    reporter.line(fmt::format("  earlier chain: {}/{}", archive, listing.files.name()));
  }
}

}  // namespace

void run_list(EventLoop& loop, Reporter& reporter, const std::string& base) {
  bool some_failed = false;
  const std::vector<Listing> listings = find_chains(loop, reporter, base, some_failed);
  if (listings.empty() && some_failed) {
    throw ChainError(fmt::format("no chain in the folder {} can be listed", base), "see the warnings");
  }
  if (listings.empty() || (listings.size() == 1 && is_empty(listings.front()))) {
    throw ChainError(fmt::format("there is no chain {} {}", is_folder(base) ? "in the folder" : "at", base),
                     "give the -backupFile that the backups were made with, or a folder");
  }
  if (!reporter.json()) {
    if (reporter.quiet()) {
      return;
    }
    for (const Listing& listing : listings) {
      print(reporter, listing);
    }
    return;
  }
  if (listings.size() == 1 && !some_failed) {
    json summary = to_json(listings.front());
    summary["command"] = "list";
    reporter.result({}, std::move(summary));
    return;
  }
  json chains = json::array();
  for (const Listing& listing : listings) {
    chains.push_back(to_json(listing));
  }
  reporter.result({}, {{"command", "list"}, {"base", base}, {"chains", std::move(chains)}});
}

}  // namespace qmpbackup
