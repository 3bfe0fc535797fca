#include "qmpbackup/chain_on_disk.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace qmpbackup {

const LevelFile* ChainOnDisk::file_of(Level level) const {
  const auto found =
      std::find_if(files.begin(), files.end(), [&](const LevelFile& file) { return file.level == level; });
  return found == files.end() ? nullptr : &*found;
}

const std::vector<LevelRecord>& ChainOnDisk::levels() const {
  static const std::vector<LevelRecord> kNone;
  return manifest ? manifest->levels : kNone;
}

bool ChainOnDisk::has_backups() const {
  const bool only_an_empty_image = full_is_empty_image && files.size() == 1;
  return !levels().empty() || manifest_state == ManifestState::kDamaged || (!files.empty() && !only_an_empty_image);
}

std::optional<std::string> fault_of_level(const ChainOnDisk& chain, const ChainFiles& files, const LevelRecord& record,
                                          std::optional<Level> below) {
  const std::string expected_file = files.level_file(record.level);
  if (record.file != expected_file) {
    return fmt::format("the manifest calls level {} {}, not {}", level_name(record.level), record.file, expected_file);
  }
  const LevelFile* file = chain.file_of(record.level);
  if (file == nullptr) {
    return fmt::format("{} is gone", record.file);
  }
  if (!file->unreadable.empty()) {
    return file->unreadable;
  }
  if (!file->header) {
    return fmt::format("{} is not a {} file", record.file, file->modified.empty() ? "regular" : "qcow2");
  }
  const Qcow2Header& header = *file->header;
  if (header.corrupt) {
    return fmt::format("{} is marked as corrupt by QEMU", record.file);
  }
  if (header.data_elsewhere) {
    return fmt::format("{} keeps its data in another file", record.file);
  }
  if (header.virtual_size != record.virtual_size) {
    return fmt::format("{} holds a disk of {} bytes, the manifest says {}", record.file, header.virtual_size,
                       record.virtual_size);
  }
  if (file->file_size != record.file_size) {
    return fmt::format("{} has {} bytes, the manifest says {}", record.file, file->file_size, record.file_size);
  }
  const std::string backing = below ? files.level_file(*below) : "";
  if (header.backing_name() != backing) {
    return fmt::format("{} has the backing file '{}' instead of '{}'", record.file, header.backing_file, backing);
  }
  if (!backing.empty() && !header.backing_format.empty() && header.backing_format != "qcow2") {
    return fmt::format("{} has QEMU read its backing file as '{}', and that is qcow2", record.file,
                       header.backing_format);
  }
  return std::nullopt;
}

std::optional<std::string> fault_of_chain(const ChainOnDisk& chain, const ChainFiles& files) {
  for (const LevelRecord& record : chain.levels()) {
    if (auto fault = fault_of_level(chain, files, record, level_below(chain.levels(), record.level))) {
      return fault;
    }
  }
  return std::nullopt;
}

LevelRecord record_from_file(const LevelFile& file, const ChainFiles& files) {
  LevelRecord record;
  record.level = file.level;
  record.file = files.level_file(file.level);
  record.time = file.modified;
  record.virtual_size = file.header ? file.header->virtual_size : 0;
  record.file_size = file.file_size;
  record.compression = "unknown";
  record.qemu = "unknown";
  return record;
}

Manifest adopt_chain(const ChainOnDisk& chain, const ChainFiles& files, const ChainId& id, const VmIdentity& vm,
                     const std::string& device) {
  Manifest manifest{.chain = id, .vm = vm, .device = device};
  Level expected = kFullLevel;
  for (const LevelFile& file : chain.files) {
    if (file.level != expected) {
      throw ChainError(fmt::format("{} is missing: the files do not make a chain", files.level_file(expected)));
    }
    LevelRecord record = record_from_file(file, files);
    record.bitmap = kForeignBitmap;
    manifest.levels.push_back(std::move(record));
    if (auto fault = fault_of_level(chain, files, manifest.levels.back(), level_below(manifest.levels, file.level))) {
      throw ChainError(*fault);
    }
    expected = manifest.next_level();
  }
  if (manifest.levels.empty()) {
    throw ChainError(fmt::format("there is no {} to adopt", files.level_path(kFullLevel)));
  }
  return manifest;
}

std::string compact_time(std::string_view rfc3339) {
  std::string compact;
  std::copy_if(rfc3339.begin(), rfc3339.end(), std::back_inserter(compact),
               [](char c) { return c != '-' && c != ':'; });
  return compact;
}

std::string unused_archive(const ChainOnDisk& chain, const std::string& now) {
  const std::string time = compact_time(time_of_full(chain, now));
  std::string name = time;
  for (int i = 2; std::find(chain.archives.begin(), chain.archives.end(), name) != chain.archives.end(); ++i) {
    name = fmt::format("{}-{}", time, i);
  }
  return name;
}

std::string time_of_full(const ChainOnDisk& chain, const std::string& otherwise) {
  if (!chain.levels().empty()) {
    return chain.levels().front().time;
  }
  const LevelFile* full = chain.file_of(kFullLevel);
  return full == nullptr || full->modified.empty() ? otherwise : full->modified;
}

}  // namespace qmpbackup
