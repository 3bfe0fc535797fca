// A virtual machine without a guest: the tests write to its disks through QEMU's own qemu-io command.
#pragma once

#include <nlohmann/json.hpp>
#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "support/program.hpp"
#include "support/qmp_test_client.hpp"
#include "support/requirements.hpp"
#include "support/temp_folder.hpp"

namespace qmpbackup::test {

struct DiskSpec {
  enum class Style {
    Drive,     // -drive if=none,id=<id>: the device name is <id>, node names are QEMU's own (#block...)
    Blockdev,  // -blockdev: no device name; nodes <id>-file and <id>-fmt
  };

  std::string id;
  std::filesystem::path image;
  std::string format = "qcow2";
  Style style = Style::Drive;
  bool throttle = false;          // limits nothing in practice; with Blockdev it is a filter node <id>-throttle
  bool iothread = false;          // one of its own, iothread-<id>
  std::string extra = {};         // more options of -drive, or of the format node: "cache.direct=on"
  std::string device_extra = {};  // more options of -device: "werror=stop"
  std::string file_node = {};     // Blockdev only: replaces "driver=file,filename=<image>,discard=unmap"
};

struct VmOptions {
  std::string name = {};
  std::string uuid = {};
  std::string machine = "q35";
  std::string accelerators = "kvm:tcg";
  std::vector<std::string> extra_arguments = {};
  std::string run_as_user =
      {};                    // needs root; images and sockets are given to that user, the temp folder to pass through
  bool start_paused = true;  // -S
  bool tcp_socket = false;   // a third QMP monitor, see tcp_address()
  std::string binary = vm_binary();
};

// Disks are named by DiskSpec::id. Failures throw std::runtime_error. Start it on the test's own thread (see
// program.hpp); the rest may be called from the hooks of a QmpProxy too.
class QemuVm {
 public:
  QemuVm(const TempFolder& folder, std::vector<DiskSpec> disks, VmOptions options = {});
  ~QemuVm();
  QemuVm(const QemuVm&) = delete;
  QemuVm& operator=(const QemuVm&) = delete;

  // Life. start() returns when the monitor answers.
  void start();
  void stop_cleanly();  // `quit`: closes the images, stores persistent bitmaps
  void terminate();     // SIGTERM, also a clean end
  void kill();          // SIGKILL and wait
  void restart();       // stop_cleanly and start
  bool running();
  pid_t pid() const;
  int ended_by() const;  // once it does not run: the signal that ended it, 0 for an exit

  // The monitors: one for the tool under test, one for the test.
  std::filesystem::path socket() const { return sockets_ / "qmp"; }
  std::string tcp_address() const;  // "tcp:127.0.0.1:PORT", with VmOptions::tcp_socket
  QmpTestClient& control();
  // Changes what the next start() does.
  VmOptions& options() { return options_; }
  DiskSpec& disk(const std::string& id);

  // What a guest would do.
  void write(const std::string& id, std::uint64_t offset, std::uint64_t length, std::uint8_t pattern);
  void write_zeroes(const std::string& id, std::uint64_t offset, std::uint64_t length);
  void discard(const std::string& id, std::uint64_t offset, std::uint64_t length);
  void flush(const std::string& id);
  // Any qemu-io command; returns what it printed. An error that qemu-io prints throws.
  std::string qemu_io(const std::string& id, const std::string& command);

  void resize(const std::string& id, std::uint64_t size_bytes);
  std::uint64_t size(const std::string& id);
  // Flushes (when running) and writes a raw copy of what the guest sees now; a new file in the temp folder each time.
  std::filesystem::path disk_content(const std::string& id);

  // What QEMU shows.
  std::string status();                                         // "running", "paused", "prelaunch", "io-error" ...
  std::string qdev_path(const std::string& id) const;           // /machine/peripheral/<id>-dev/virtio-backend
  nlohmann::json node(const std::string& node_name);            // of query-named-block-nodes; null if there is none
  std::string node_of(const std::string& id);                   // the node of the image's format, below any filter
  std::vector<nlohmann::json> bitmaps(const std::string& id);   // on that node
  std::vector<std::string> our_bitmaps(const std::string& id);  // names that begin with "qmpbackup-"

  enum class Fdsets { Count, Ignore };
  // Nodes, jobs and descriptor sets that carry "qmpbackup" in their names (or sets without a label), one line each.
  // QEMU 7.2 keeps showing removed sets until the VM runs, hence Ignore.
  std::vector<std::string> our_leftovers(Fdsets fdsets = Fdsets::Count);

  // stderr of QEMU since its start.
  std::string log() const;

 private:
  std::vector<std::string> command_line() const;
  void add_disk(std::vector<std::string>& argv, const DiskSpec& disk) const;
  void give_to_user() const;
  BackgroundProgram& process();
  void change(const std::string& id, const std::string& command, const std::string& done, std::uint64_t offset,
              std::uint64_t length);
  nlohmann::json nodes();
  void end_process(int signal);

  const TempFolder& folder_;
  TempFolder sockets_;  // below /tmp: a socket address has room for 107 bytes only
  std::vector<DiskSpec> disks_;
  VmOptions options_;
  std::unique_ptr<BackgroundProgram> process_;
  std::unique_ptr<QmpTestClient> control_;
  std::string tcp_address_;
  std::mutex qemu_io_mutex_;
  int copies_ = 0;
};

}  // namespace qmpbackup::test
