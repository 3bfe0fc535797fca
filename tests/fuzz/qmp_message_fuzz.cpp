// What QEMU sends, or something that only claims to be QEMU: the parser throws QmpSyntaxError or returns, whatever
// comes.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "qmpbackup/qmp_message.hpp"
#include "qmpbackup/vm_state.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace qmpbackup;
  const std::string_view line(reinterpret_cast<const char*>(data), size);
  try {
    const QmpMessage message = parse_qmp_message(line);
    if (const auto* reply = std::get_if<QmpReply>(&message)) {
      VmState vm;
      vm.features = parse_features(QmpSchema(reply->value));
      vm.jobs = parse_jobs(reply->value);
      vm.devices = parse_devices(reply->value);
      vm.nodes = parse_nodes(reply->value);
      vm.edges = parse_block_graph(reply->value);
      for (const Disk& disk : list_disks(vm)) {
        (void)allocated_bytes(vm, disk);
      }
    } else if (const auto* event = std::get_if<QmpEvent>(&message)) {
      (void)job_of_event(*event);
    }
  } catch (const Error&) {
  }
  return 0;
}
