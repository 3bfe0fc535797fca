#include "qmpbackup/manifest.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "qmpbackup/json_text.hpp"
#include "qmpbackup/sha256.hpp"

namespace qmpbackup {
namespace {

using nlohmann::json;

constexpr int kFormat = 1;

/// Takes known fields out of a JSON object, so that what remains is what this version does not know.
class Fields {
 public:
  Fields(json object, std::string where) : object_(std::move(object)), where_(std::move(where)) {
    if (!object_.is_object()) {
      throw ManifestDamaged(where_ + " is not an object");
    }
  }

  bool has(const char* key) const {
    const auto found = object_.find(key);
    return found != object_.end() && !found->is_null();
  }

  json take(const char* key) {
    const auto found = object_.find(key);
    if (found == object_.end()) {
      throw ManifestDamaged(fmt::format("{} has no '{}'", where_, key));
    }
    json value = std::move(*found);
    object_.erase(found);
    return value;
  }

  std::optional<json> take_if_present(const char* key) {
    if (!has(key)) {
      object_.erase(key);
      return std::nullopt;
    }
    return take(key);
  }

  std::string text(const char* key) {
    json value = take(key);
    if (!value.is_string()) {
      throw ManifestDamaged(fmt::format("'{}' of {} is not a string", key, where_));
    }
    return value.get<std::string>();
  }

  std::string file_name(const char* key) {
    std::string name = text(key);
    if (name.empty() || name.find('/') != std::string::npos || name.find('\0') != std::string::npos || name == "..") {
      throw ManifestDamaged(fmt::format("'{}' of {} is not a plain file name", key, where_));
    }
    return name;
  }

  ByteCount bytes(const char* key) { return number(key, "number of bytes"); }
  std::size_t count(const char* key) { return number(key, "count"); }

  bool flag(const char* key) {
    const json value = take_if_present(key).value_or(false);
    if (!value.is_boolean()) {
      throw ManifestDamaged(fmt::format("'{}' of {} is not true or false", key, where_));
    }
    return value.get<bool>();
  }

  Level level(const char* key) {
    const json value = take(key);
    constexpr int kMost = 1'000'000;
    const bool full = value.is_number_integer() && value.get<std::int64_t>() == -1 && !value.is_number_unsigned();
    const bool incremental = value.is_number_unsigned() && value.get<std::uint64_t>() <= kMost;
    if (!full && !incremental) {
      throw ManifestDamaged(fmt::format("'{}' of {} is not a level", key, where_));
    }
    return {value.get<int>()};
  }

  ChainId chain(const char* key) {
    if (auto id = ChainId::parse(text(key))) {
      return *id;
    }
    throw ManifestDamaged(fmt::format("'{}' of {} is not a UUID", key, where_));
  }

  json rest() { return std::move(object_); }

 private:
  std::uint64_t number(const char* key, const char* what) {
    const json value = take(key);
    if (!value.is_number_unsigned()) {
      throw ManifestDamaged(fmt::format("'{}' of {} is not a {}", key, where_, what));
    }
    return value.get<std::uint64_t>();
  }

  json object_;
  std::string where_;
};

LevelRecord parse_record(json object) {
  Fields fields(std::move(object), "a level");
  LevelRecord record;
  record.level = fields.level("level");
  record.file = fields.file_name("file");
  record.time = fields.text("time");
  record.virtual_size = fields.bytes("virtual_size");
  record.bytes_copied = fields.bytes("bytes_copied");
  record.file_size = fields.bytes("file_size");
  record.compression = fields.text("compression");
  record.bitmap = {fields.text("bitmap")};
  if (fields.has("marked")) {
    record.marked = fields.flag("marked");
  } else {
    record.marks = fields.count("marks");
  }
  record.marks_seed = fields.has("marks_seed") ? fields.count("marks_seed") : 0;
  record.granularity = fields.has("granularity") ? fields.bytes("granularity") : kGranularity;
  record.qemu = fields.text("qemu");
  if (fields.has("sha256")) {
    record.sha256 = fields.text("sha256");
  }
  fields.take_if_present("sha256");
  record.checked = fields.flag("checked");
  record.other = fields.rest();
  return record;
}

VmIdentity parse_vm(json object) {
  Fields fields(std::move(object), "'vm'");
  VmIdentity vm;
  vm.name = fields.text("name");
  vm.uuid = fields.text("uuid");
  return vm;
}

Pending parse_pending(json object) {
  Fields fields(std::move(object), "'pending'");
  Pending pending{.chain = fields.chain("chain"),
                  .level = fields.level("level"),
                  .job = {fields.text("job")},
                  .node = {fields.text("node")},
                  .bitmap = {fields.text("bitmap")},
                  .partial = fields.file_name("partial"),
                  .started = fields.text("started"),
                  .device = fields.text("device"),
                  .vm = parse_vm(fields.take("vm")),
                  .granularity = fields.has("granularity") ? fields.bytes("granularity") : kGranularity,
                  .marks = fields.count("marks"),
                  .marks_seed = fields.has("marks_seed") ? fields.count("marks_seed") : 0,
                  .compression = fields.text("compression"),
                  .virtual_size = fields.bytes("virtual_size"),
                  .cluster_size = fields.bytes("cluster_size"),
                  .adopts = fields.flag("adopts"),
                  .was_running = fields.flag("was_running"),
                  .reason = fields.text("reason")};
  if (fields.has("archive")) {
    pending.archive = fields.file_name("archive");
  }
  if (auto verified = fields.take_if_present("verified")) {
    pending.verified = parse_record(std::move(*verified));
    pending.inode = fields.has("inode") ? fields.count("inode") : 0;
  }
  return pending;
}

void refuse_foreign_level(const LevelRecord& record, const ChainId& chain) {
  constexpr std::string_view kTime = "0000-00-00T00:00:00Z";
  const auto named = parse_chain_level(record.bitmap.value);
  if (record.bitmap != kForeignBitmap && !(named && named->chain == chain)) {
    throw ManifestDamaged(fmt::format("level {} has a bitmap that is none of this chain", level_name(record.level)));
  }
  if (record.time.size() != kTime.size() || !begins_like(record.time, kTime)) {
    throw ManifestDamaged(fmt::format("level {} has a time that is none", level_name(record.level)));
  }
}

/// What the manifest names is removed, renamed and moved: whoever can write it must not aim that at something else.
void refuse_foreign_names(const Manifest& manifest) {
  for (const LevelRecord& record : manifest.levels) {
    refuse_foreign_level(record, manifest.chain);
  }
  if (manifest.pending_merge && (manifest.levels.empty() || manifest.pending_merge->through != manifest.merged)) {
    throw ManifestDamaged("'pending_merge' is not what was merged");
  }
  if (!manifest.pending) {
    return;
  }
  const Pending& run = *manifest.pending;
  if (run.bitmap != level_bitmap(run.chain, run.level) || run.job != level_job(run.chain, run.level) ||
      run.node != target_node(run.chain)) {
    throw ManifestDamaged("'pending' names what no run of this chain makes");
  }
  if (run.verified) {
    refuse_foreign_level(*run.verified, run.chain);
    if (run.verified->level != run.level || run.verified->bitmap != run.bitmap) {
      throw ManifestDamaged("'verified' is not the level of 'pending'");
    }
  }
}

/// The fields that this version knows, without those that it only passes on.
json known_fields(const LevelRecord& record) {
  json object{{"level", record.level.number},
              {"file", record.file},
              {"time", record.time},
              {"virtual_size", record.virtual_size},
              {"bytes_copied", record.bytes_copied},
              {"file_size", record.file_size},
              {"compression", record.compression},
              {"bitmap", record.bitmap.value},
              {record.marked ? "marked" : "marks", record.marked ? json(*record.marked) : json(record.marks)},
              {"qemu", record.qemu},
              {"sha256", record.sha256 ? json(*record.sha256) : json(nullptr)}};
  if (record.checked) {
    object["checked"] = true;
  }
  if (record.marks_seed != 0) {
    object["marks_seed"] = record.marks_seed;
  }
  if (record.granularity != kGranularity) {
    object["granularity"] = record.granularity;
  }
  return object;
}

json known_fields(const Pending& pending) {
  json object{{"chain", pending.chain.text()},
              {"level", pending.level.number},
              {"job", pending.job.value},
              {"node", pending.node.value},
              {"bitmap", pending.bitmap.value},
              {"partial", pending.partial},
              {"started", pending.started},
              {"device", pending.device},
              {"vm", {{"name", pending.vm.name}, {"uuid", pending.vm.uuid}}},
              {"marks", pending.marks},
              {"compression", pending.compression},
              {"virtual_size", pending.virtual_size},
              {"cluster_size", pending.cluster_size},
              {"adopts", pending.adopts},
              {"was_running", pending.was_running},
              {"reason", pending.reason}};
  if (pending.marks_seed != 0) {
    object["marks_seed"] = pending.marks_seed;
  }
  if (pending.granularity != kGranularity) {
    object["granularity"] = pending.granularity;
  }
  if (pending.archive) {
    object["archive"] = *pending.archive;
  }
  if (pending.verified) {
    object["verified"] = known_fields(*pending.verified);
    object["inode"] = pending.inode;
  }
  return object;
}

json known_fields(const Manifest& manifest) {
  json document{{"format", kFormat},
                {"chain", manifest.chain.text()},
                {"vm", {{"name", manifest.vm.name}, {"uuid", manifest.vm.uuid}}},
                {"device", manifest.device},
                {"levels", json::array()}};
  for (const ChainId& replaced : manifest.replaces) {
    document["replaces"].push_back(replaced.text());
  }
  if (manifest.replaces.size() == 1) {
    document["replaces"] = manifest.replaces.front().text();  // as the first manifests have it
  }
  for (const LevelRecord& record : manifest.levels) {
    document["levels"].push_back(known_fields(record));
  }
  if (manifest.stored_attempts > 0) {
    document["stored_attempts"] = manifest.stored_attempts;
  }
  if (manifest.merged) {
    document["merged"] = manifest.merged->number;
  }
  if (manifest.pending) {
    document["pending"] = known_fields(*manifest.pending);
  }
  if (manifest.pending_merge) {
    document["pending_merge"] = {{"through", manifest.pending_merge->through.number}};
  }
  return document;
}

/// Finds a flipped bit in any field that matters. Fields of others may be added and changed freely.
std::string checksum(const Manifest& manifest) {
  return sha256(known_fields(manifest).dump());
}

}  // namespace

json to_json(const LevelRecord& record) {
  json object = record.other;
  object.update(known_fields(record));
  return object;
}

Level Manifest::next_level() const {
  if (levels.empty()) {
    return kFullLevel;
  }
  return std::max(levels.back().level, merged.value_or(kFullLevel)).next();
}

std::optional<Level> level_below(const std::vector<LevelRecord>& levels, Level level) {
  std::optional<Level> below;
  for (const LevelRecord& record : levels) {
    if (record.level == level) {
      return below;
    }
    below = record.level;
  }
  return std::nullopt;
}

Manifest parse_manifest(std::string_view text) {
  json document = parse_json(text);
  if (document.is_discarded()) {
    throw ManifestDamaged("it is not JSON");
  }
  Fields fields(std::move(document), "the manifest");
  const json format = fields.take("format");
  if (!format.is_number_unsigned() || format.get<std::uint64_t>() == 0) {
    throw ManifestDamaged("'format' is not a version");
  }
  if (format.get<std::uint64_t>() > kFormat) {
    throw ManifestTooNew(fmt::format("it has format {}, this program knows format {}", format.dump(), kFormat),
                         "use the newer qmpbackup that wrote it");
  }
  Manifest manifest{.chain = fields.chain("chain"), .vm = {}, .device = fields.text("device")};
  manifest.vm = parse_vm(fields.take("vm"));
  for (const json& replaced : fields.take_if_present("replaces").value_or(json::array())) {
    manifest.replaces.push_back(Fields({{"replaces", replaced}}, "the manifest").chain("replaces"));
  }
  json levels = fields.take("levels");
  if (!levels.is_array()) {
    throw ManifestDamaged("'levels' is not an array");
  }
  if (fields.has("stored_attempts")) {
    manifest.stored_attempts = fields.count("stored_attempts");
  }
  if (fields.has("merged")) {
    manifest.merged = fields.level("merged");
  }
  Level expected = kFullLevel;
  for (json& level : levels) {
    manifest.levels.push_back(parse_record(std::move(level)));
    if (manifest.levels.back().level != expected) {
      throw ManifestDamaged(fmt::format("level {} is missing in 'levels'", level_name(expected)));
    }
    expected = manifest.next_level();
  }
  if (auto merge = fields.take_if_present("pending_merge")) {
    Fields merge_fields(std::move(*merge), "'pending_merge'");
    manifest.pending_merge = PendingMerge{merge_fields.level("through")};
  }
  if (auto pending = fields.take_if_present("pending")) {
    manifest.pending = parse_pending(std::move(*pending));
  }
  const std::string expected_checksum = fields.text("checksum");
  manifest.other = fields.rest();
  refuse_foreign_names(manifest);
  if (checksum(manifest) != expected_checksum) {
    throw ManifestDamaged("its checksum does not match its content");
  }
  return manifest;
}

std::optional<ChainId> find_chain_id(std::string_view text) {
  constexpr std::string_view kKey = "\"chain\"";
  constexpr std::size_t kUuid = 36;
  const auto key = text.find(kKey);  // the chain's own is the first: keys are sorted
  const auto quote = key == std::string_view::npos ? key : text.find('"', key + kKey.size());
  return quote == std::string_view::npos ? std::nullopt : ChainId::parse(text.substr(quote + 1, kUuid));
}

std::string format_manifest(const Manifest& manifest) {
  json document = manifest.other;
  document.update(known_fields(manifest));
  for (std::size_t i = 0; i < manifest.levels.size(); ++i) {
    document["levels"][i] = to_json(manifest.levels[i]);
  }
  document["checksum"] = checksum(manifest);
  return document.dump(2) + "\n";
}

}  // namespace qmpbackup
