// A manifest that somebody else wrote, or a disk garbled: it is refused, or says after a rewrite what it said before.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "qmpbackup/chain_view.hpp"
#include "qmpbackup/manifest.hpp"
#include "qmpbackup/qcow2_header.hpp"
#include "qmpbackup/sha256.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using namespace qmpbackup;

void try_manifest(const std::string& text) {
  try {
    const std::string written = format_manifest(parse_manifest(text));
    if (format_manifest(parse_manifest(written)) != written) {
      std::abort();
    }
  } catch (const ChainError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  (void)parse_qcow2_header(std::as_bytes(std::span(text)));
  try_manifest(text);
  return 0;
}
