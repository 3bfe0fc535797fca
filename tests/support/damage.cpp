#include "support/damage.hpp"

#include <sys/stat.h>

#include <fstream>
#include <stdexcept>

#include "support/images.hpp"
#include "support/program.hpp"

namespace qmpbackup::test {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kOffsetMask = 0x00fffffffffffe00;
constexpr std::uint64_t kCompressed = 1ULL << 62;

std::uint64_t big_endian(const std::string& bytes, std::uint64_t offset, std::size_t size) {
  std::uint64_t value = 0;
  for (const char c : bytes.substr(offset, size)) {
    value = value << 8 | static_cast<unsigned char>(c);
  }
  return value;
}

void put(const fs::path& file, std::uint64_t offset, std::uint64_t value, std::size_t size) {
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekp(static_cast<std::streamoff>(offset));
  for (std::size_t i = size; i-- > 0;) {
    stream.put(static_cast<char>(value >> (8 * i)));
  }
}

// Beside `path`: the file of another level of its chain.
fs::path sibling(const fs::path& path, const std::string& level) {
  const std::string name = path.filename();
  return path.parent_path() / (name.substr(0, name.find(".inc")) + "." + level + ".qcow2");
}

void set_backing(const fs::path& path, const std::string& backing) {
  run_checked({"qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing, path});
}

void set_age(const fs::path& path, int hours) {
  fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::hours(hours));
}

}  // namespace

Qcow2Layout::Qcow2Layout(const fs::path& file) {
  const std::string bytes = read_file(file);
  const std::uint64_t cluster_bits = big_endian(bytes, 20, 4);
  const std::uint64_t cluster = 1ULL << cluster_bits;
  const std::uint64_t l1 = big_endian(bytes, 40, 8);
  const std::uint64_t entries = big_endian(bytes, 36, 4);
  for (std::uint64_t i = 0; i < entries && l1_entry == 0; ++i) {
    l1_entry = (big_endian(bytes, l1 + 8 * i, 8) & kOffsetMask) == 0 ? 0 : l1 + 8 * i;
  }
  const std::uint64_t l2 = big_endian(bytes, l1_entry, 8) & kOffsetMask;
  for (std::uint64_t at = l2; at < l2 + cluster && data == 0; at += 8) {
    const std::uint64_t entry = big_endian(bytes, at, 8);
    const std::uint64_t offset_bits = 62 - (cluster_bits - 8);
    data = (entry & kCompressed) != 0 ? entry & ((1ULL << offset_bits) - 1) : entry & kOffsetMask;
    l2_entry = at;
  }
  refcount_table = big_endian(bytes, 48, 8);
  refcount = (big_endian(bytes, refcount_table, 8) & kOffsetMask) + 2 * (data / cluster);
  if (l1_entry == 0 || data == 0) {
    throw std::runtime_error(file.string() + " has no data to damage");
  }
}

void flip_byte(const fs::path& file, std::uint64_t offset) {
  const std::string bytes = read_file(file);
  put(file, offset, ~big_endian(bytes, offset, 1) & 0xff, 1);
}

std::vector<Damage> byte_damages() {
  constexpr std::uint64_t kBeyondTheEnd = 1ULL << 45;
  return {
      {"magic", SeenBy::File, [](const fs::path& p) { flip_byte(p, 0); }},
      {"version", SeenBy::File, [](const fs::path& p) { put(p, 4, 9, 4); }},
      {"backing offset", SeenBy::File, [](const fs::path& p) { put(p, 8, kBeyondTheEnd, 8); }},
      {"cluster bits", SeenBy::File, [](const fs::path& p) { put(p, 20, 63, 4); }},
      {"disk size", SeenBy::Manifest, [](const fs::path& p) { flip_byte(p, 29); }},
      {"corrupt flag", SeenBy::File, [](const fs::path& p) { put(p, 72, 2, 8); }},
      {"data in another file", SeenBy::File, [](const fs::path& p) { put(p, 72, 4, 8); }},
      {"unknown incompatible feature", SeenBy::File, [](const fs::path& p) { put(p, 72, 1ULL << 60, 8); }},
      {"L1 offset", SeenBy::File, [](const fs::path& p) { put(p, 40, kBeyondTheEnd, 8); }},
      {"L1 entry beyond the end", SeenBy::File,
       [](const fs::path& p) { put(p, Qcow2Layout(p).l1_entry, kBeyondTheEnd | 1ULL << 63, 8); }},
      {"L1 entry cleared", SeenBy::Manifest, [](const fs::path& p) { put(p, Qcow2Layout(p).l1_entry, 0, 8); }},
      {"L2 entry beyond the end", SeenBy::File,
       [](const fs::path& p) { put(p, Qcow2Layout(p).l2_entry, kBeyondTheEnd | 1ULL << 63, 8); }},
      {"L2 entry cleared", SeenBy::Manifest, [](const fs::path& p) { put(p, Qcow2Layout(p).l2_entry, 0, 8); }},
      {"refcount table", SeenBy::File, [](const fs::path& p) { put(p, Qcow2Layout(p).refcount_table, 0, 8); }},
      {"refcount", SeenBy::File, [](const fs::path& p) { put(p, Qcow2Layout(p).refcount, 0, 2); }},
      {"data", SeenBy::Checksum, [](const fs::path& p) { flip_byte(p, Qcow2Layout(p).data + 20); }},
      {"truncated by a sector", SeenBy::Manifest,
       [](const fs::path& p) { fs::resize_file(p, fs::file_size(p) - 512); }},
      {"truncated to a half", SeenBy::Manifest, [](const fs::path& p) { fs::resize_file(p, fs::file_size(p) / 2); }},
      {"truncated to the header", SeenBy::File, [](const fs::path& p) { fs::resize_file(p, 104); }},
      {"empty", SeenBy::File, [](const fs::path& p) { fs::resize_file(p, 0); }},
      {"longer by a byte", SeenBy::Manifest, [](const fs::path& p) { fs::resize_file(p, fs::file_size(p) + 1); }},
      {"longer by a MiB", SeenBy::Manifest,
       [](const fs::path& p) { fs::resize_file(p, fs::file_size(p) + (1 << 20)); }},
      {"random bytes", SeenBy::File, [](const fs::path& p) { write_file(p, std::string(300000, '\x5a')); }},
  };
}

std::vector<Damage> file_damages() {
  return {
      {"gone", SeenBy::File, [](const fs::path& p) { fs::remove(p); }},
      {"directory", SeenBy::File,
       [](const fs::path& p) {
         fs::remove(p);
         fs::create_directory(p);
       }},
      {"fifo", SeenBy::File,
       [](const fs::path& p) {
         fs::remove(p);
         ::mkfifo(p.c_str(), 0600);
       }},
      {"link into nothing", SeenBy::File,
       [](const fs::path& p) {
         fs::remove(p);
         fs::create_symlink("nowhere", p);
       }},
      {"link to itself", SeenBy::File,
       [](const fs::path& p) {
         fs::remove(p);
         fs::create_symlink(p.filename(), p);
       }},
      {"link to another level", SeenBy::File,
       [](const fs::path& p) {
         fs::remove(p);
         fs::create_symlink(sibling(p, "inc0").filename(), p);
       }},
      {"link to the file, moved", SeenBy::Nobody,
       [](const fs::path& p) {
         fs::rename(p, p.string() + ".moved");
         fs::create_symlink(p.filename().string() + ".moved", p);
       }},
      {"swapped with the level above", SeenBy::File,
       [](const fs::path& p) {
         fs::rename(p, p.string() + ".x");
         fs::rename(sibling(p, "inc2"), p);
         fs::rename(p.string() + ".x", sibling(p, "inc2"));
       }},
      {"backing file is itself", SeenBy::File, [](const fs::path& p) { set_backing(p, p.filename()); }},
      {"backing file is the level above", SeenBy::File,
       [](const fs::path& p) { set_backing(p, sibling(p, "inc2").filename()); }},
      {"backing file is the full", SeenBy::File,
       [](const fs::path& p) { set_backing(p, sibling(p, "full").filename()); }},
      {"backing file is elsewhere", SeenBy::File, [](const fs::path& p) { set_backing(p, "/etc/passwd"); }},
      {"backing file is a protocol", SeenBy::File, [](const fs::path& p) { set_backing(p, "nbd:localhost:1"); }},
      {"no backing file", SeenBy::File, [](const fs::path& p) { set_backing(p, ""); }},
      {"times reversed", SeenBy::Nobody,
       [](const fs::path& p) {
         set_age(sibling(p, "full"), 1);
         set_age(sibling(p, "inc0"), 2);
         set_age(p, 3);
         set_age(sibling(p, "inc2"), 4);
       }},
      {"everybody may write", SeenBy::Nobody,
       [](const fs::path& p) { fs::permissions(p, static_cast<fs::perms>(0666)); }},
      {"unknown files beside", SeenBy::Nobody,
       [](const fs::path& p) {
         write_file(p.string() + ".partial", "half");
         write_file(sibling(p, "inc7x"), "no level");
         write_file(p.parent_path() / "notes.txt", "hello");
       }},
  };
}

}  // namespace qmpbackup::test
