// A chain with a manifest that no VM has made: quickly there, with as many levels as a test wants.
#pragma once

#include <fmt/format.h>

#include <filesystem>
#include <string>
#include <vector>

#include "qmpbackup/manifest.hpp"
#include "qmpbackup/sha256.hpp"

#include "support/images.hpp"
#include "support/program.hpp"
#include "support/temp_folder.hpp"

namespace qmpbackup::test {

class MadeChain {
 public:
  static constexpr std::size_t disk_size = 1024 * 1024;

  // The full and `incrementals` levels above it.
  explicit MadeChain(int incrementals) {
    std::filesystem::permissions(folder_.path(), std::filesystem::perms{0755});  // for readers of another user
    manifest_.device = "drive0";
    std::string disk(disk_size, '\x01');
    for (int number = -1; number < incrementals; ++number) {
      disk.replace(0, kPiece, kPiece, static_cast<char>(number + 3));
      disk.replace(kPiece * place(number), kPiece, kPiece, static_cast<char>(number + 4));
      contents_.push_back(disk);
      make_level(Level{number}, disk);
    }
    write_manifest();
  }

  std::filesystem::path folder() const { return folder_.path(); }
  std::filesystem::path base() const { return folder_ / "d"; }
  std::filesystem::path file(int level) const { return folder_ / name(level); }
  std::filesystem::path manifest_file() const { return folder_ / "d.chain.json"; }
  static std::string name(int level) { return fmt::format("d.{}.qcow2", level_name(Level{level})); }
  // The intent of a run that takes a full.
  static Pending pending_full(const ChainId& id) {
    return {.chain = id,
            .level = kFullLevel,
            .job = level_job(id, kFullLevel),
            .node = target_node(id),
            .bitmap = level_bitmap(id, kFullLevel),
            .partial = name(-1) + ".partial",
            .started = "2026-11-21T02:00:00Z",
            .device = "drive0",
            .vm = {},
            .compression = "none",
            .virtual_size = disk_size,
            .cluster_size = 64 * 1024,
            .reason = "",
            .archive = {},
            .verified = {}};
  }
  // What the disk was at a level.
  const std::string& content(int level) const { return contents_.at(static_cast<std::size_t>(level + 1)); }
  Manifest& manifest() { return manifest_; }
  void write_manifest() const { write_file(manifest_file(), format_manifest(manifest_)); }
  Manifest read_manifest() const { return parse_manifest(read_file(manifest_file())); }

  ProgramResult run(const std::string& command, std::vector<std::string> more = {},
                    const RunOptions& options = {}) const {
    more.insert(more.begin(), {tool_binary(), command, "-backupFile", base()});
    return run_program(more, options);
  }

 private:
  static constexpr std::size_t kPiece = 64 * 1024;
  static std::size_t place(int number) { return static_cast<std::size_t>(number + 1) % (disk_size / kPiece); }

  void make_level(Level level, const std::string& disk) {
    const std::filesystem::path path = file(level.number);
    if (level.is_full()) {
      write_file(folder_ / "disk", disk);
      run_checked({"qemu-img", "convert", "-f", "raw", "-O", "qcow2", folder_ / "disk", path});
      std::filesystem::remove(folder_ / "disk");
    } else {
      run_checked({"qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", name(level.number - 1), path});
      run_checked({"qemu-io", "-c", fmt::format("write -P {} 0 64k", level.number + 3), "-c",
                   fmt::format("write -P {} {} 64k", level.number + 4, kPiece * place(level.number)), path});
    }
    const std::string bytes = read_file(path);
    LevelRecord record;
    record.level = level;
    record.file = name(level.number);
    record.time = fmt::format("2026-11-20T02:{:02}:{:02}Z", (level.number + 1) / 60, (level.number + 1) % 60);
    record.virtual_size = disk_size;
    record.bytes_copied = level.is_full() ? disk_size : place(level.number) == 0 ? kPiece : 2 * kPiece;
    record.file_size = bytes.size();
    record.compression = "none";
    record.bitmap = level_bitmap(manifest_.chain, level);
    record.qemu = "7.2.22";
    record.sha256 = sha256(bytes);
    manifest_.levels.push_back(std::move(record));
  }

  TempFolder folder_{"/tmp"};
  std::vector<std::string> contents_;
  Manifest manifest_{.chain = *ChainId::parse("0b3c6f52-1d2e-4f60-8a9b-0123456789ab"),
                     .vm = {},
                     .device = {},
                     .replaces = {},
                     .levels = {},
                     .pending = {}};
};

}  // namespace qmpbackup::test
