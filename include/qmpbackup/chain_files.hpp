#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "qmpbackup/ids.hpp"

namespace qmpbackup {

/// The names of all files of a chain, and their inverse. No other place puts a file name together.
class ChainFiles {
 public:
  /// `base` is what the operator gave: a path to which suffixes are appended, whatever it ends in.
  /// Throws UsageError when no file can be called so: empty, ending in '/', not UTF-8 (JSON and QMP carry UTF-8 only),
  /// too long.
  explicit ChainFiles(std::string base);

  [[nodiscard]] const std::string& base() const { return base_; }
  /// The folder of the chain; "." for a base without one.
  [[nodiscard]] std::string folder() const;
  /// The base's last component.
  [[nodiscard]] std::string name() const;

  /// A path below folder() for a file name.
  [[nodiscard]] std::string in_folder(std::string_view file) const;

  [[nodiscard]] std::string level_file(Level level) const;    ///< NAME.inc0.qcow2
  [[nodiscard]] std::string level_path(Level level) const;    ///< BASE.inc0.qcow2
  [[nodiscard]] std::string partial_file(Level level) const;  ///< NAME.inc0.qcow2.partial
  [[nodiscard]] std::string partial_path(Level level) const;  ///< BASE.inc0.qcow2.partial
  [[nodiscard]] std::string manifest_path() const;            ///< BASE.chain.json
  [[nodiscard]] std::string damaged_manifest_path() const;  ///< BASE.chain.json.damaged, while a new chain replaces it
  [[nodiscard]] std::string lock_path() const;              ///< BASE.lock
  [[nodiscard]] std::string checksums_path() const;         ///< BASE.sha256
  /// The same chain's names inside its archive folder BASE.<time>/; `compact_time` as in 20261122T020000Z.
  [[nodiscard]] ChainFiles archived(std::string_view compact_time) const;
  /// Whether these are such names.
  [[nodiscard]] bool is_archived() const;

  /// What a level on top of level `below` names in its qcow2 header as its backing file: the file name alone, so that
  /// the folder can be moved. A name with a colon gets "./" in front: QEMU would take `vm1:disk` for a protocol
  /// (path_has_protocol, block.c).
  [[nodiscard]] std::string backing_link(Level below) const;

  /// The compact time in the name of an archive folder of this chain ("drive0.20261122T020000Z"), if it is one.
  [[nodiscard]] std::optional<std::string> time_of_archive(std::string_view folder_name) const;
  /// The chain's name() that a manifest or a full's file belongs to, if `file` is one of these.
  [[nodiscard]] static std::optional<std::string> name_of_chain(std::string_view file);

  /// Which level `file` (a name without folder) is the finished file of, if any.
  [[nodiscard]] std::optional<Level> level_of_file(std::string_view file) const;
  /// Which level `file` is the partial file of, if any.
  [[nodiscard]] std::optional<Level> level_of_partial(std::string_view file) const;

 private:
  std::string base_;
};

}  // namespace qmpbackup
