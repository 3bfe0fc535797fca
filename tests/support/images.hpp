// Disk images, by qemu-img.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace qmpbackup::test {

// `options` are those of `qemu-img create -o`, such as "compat=0.10".
void make_image(const std::filesystem::path& path, const std::string& format, std::uint64_t size_bytes,
                const std::string& options = "");

// Writes the guest-visible content of `image`, with its backing chain, to `raw_output`. Works beside a running QEMU
// (flush first). Throws std::runtime_error with qemu-img's words.
void convert_to_raw(const std::filesystem::path& image, const std::string& format,
                    const std::filesystem::path& raw_output);

// How two raw files differ, in size or bytes; empty when they do not.
std::string difference(const std::filesystem::path& raw_a, const std::filesystem::path& raw_b);

// The whole file. Throws std::runtime_error.
std::string read_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, const std::string& text);

}  // namespace qmpbackup::test
