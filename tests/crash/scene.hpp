// A VM with one disk, a proxy between its monitor and the tool, a chain of backups, and the judge of all of it.
#pragma once

#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "crash/known_levels.hpp"
#include "support/powered_folder.hpp"
#include "support/program.hpp"
#include "support/qemu_vm.hpp"
#include "support/qmp_proxy.hpp"
#include "support/temp_folder.hpp"

namespace qmpbackup::test {

inline constexpr std::uint64_t KiB = 1024;
inline constexpr std::uint64_t MiB = 1024 * KiB;

using Violations = std::vector<std::string>;

// One moment of a run: a message of the tool's, and how far it has come.
enum class Moment {
  BeforeSending,  // QEMU does not get it if the meddling says Drop
  AfterSending,   // QEMU may be working on it
  Answered,       // QEMU has answered, the tool does not know
  AfterReply,
};
struct Point {
  int message = 0;
  Moment moment = Moment::BeforeSending;
  std::string command;
  nlohmann::json arguments = nullptr;  // before and after sending only
};
std::string describe(const Point& point);
// Whether a guest write at this moment is clearly before or after the point in time: QEMU reads the test's monitor
// while the transaction waits in the tool's.
bool is_clear_cut(const Point& point);

struct SceneOptions {
  DiskSpec::Style style = DiskSpec::Style::Drive;
  std::string format = "qcow2";
  std::string image_options = {};  // of the disk's image, as for qemu-img create -o
  std::uint64_t disk_bytes = 4 * MiB;
  std::uint64_t tmpfs_bytes = 0;  // the chain's folder is a tmpfs of that size; 0: an ordinary folder
  bool powered = false;           // the chain's folder is on a PoweredFolder
  bool powered_disk = false;      // and so is the VM's disk
  bool start_paused = true;
  bool reads_can_fail = false;                    // with Style::Blockdev: fail_reads() works
  std::string file_node = {};                     // of DiskSpec
  std::vector<std::string> extra_arguments = {};  // of VmOptions
  std::string binary = vm_binary();
};

class Scene {
 public:
  using Meddling = std::function<Verdict(const Point& point)>;

  // The VM is there, its disk holds some random data. Throws std::runtime_error.
  explicit Scene(std::uint64_t seed, SceneOptions options = {});
  Scene(const Scene&) = delete;
  Scene& operator=(const Scene&) = delete;
  ~Scene();

  QemuVm& vm() { return vm_; }
  QmpProxy& proxy() { return proxy_; }
  KnownLevels& known() { return known_; }
  TmpfsFolder* tmpfs() { return tmpfs_.get(); }
  PoweredFolder* power() { return power_.get(); }
  static constexpr const char* disk = "disk0";

  // BASE of the chain at hand. new_chain() goes on in an empty folder, with a disk that has no bitmaps of ours.
  std::filesystem::path base() const { return folder_ / "vm1"; }
  std::filesystem::path folder() const { return folder_; }
  // Everything that lies on a disk, but what is on a tmpfs.
  std::filesystem::path everything() const { return temp_.path(); }
  void new_chain();
  nlohmann::json manifest() const { return read_manifest(base()); }
  std::vector<int> levels() const { return levels_in(manifest()); }

  // Runs the tool on the chain, through the proxy. `meddling` sees every moment, on the proxy's thread; no message
  // moves while it runs.
  ProgramResult backup(const std::vector<std::string>& arguments, Meddling meddling = {});
  std::vector<std::string> command(const std::vector<std::string>& arguments) const;
  // Of the tool, from now on.
  void set_environment(std::map<std::string, std::string> environment) { environment_ = std::move(environment); }
  // From now on the tool sees a QEMU without these commands, arguments and values.
  void hide_from_schema(std::set<std::string> words) { hidden_ = std::move(words); }
  // The next run gets this signal after this time, if it is not over then.
  void signal_after(std::chrono::milliseconds time, int signal) { signal_after_ = {time, signal}; }

  // What a meddling can do; each counts as a fault. They return when the victim is dead, with the verdict to give.
  Verdict kill_tool(const Point& point);
  // A killed QEMU leaves its socket behind, or, with `socket_goes`, none that the tool could find.
  Verdict end_qemu(int signal, bool socket_goes);
  void start_again();  // the VM, if it does not run, on a storage that has power
  // Nothing but a clean end of QEMU happened in the last run.
  bool bitmaps_survived() const { return bitmaps_survived_; }

  void resize(std::uint64_t size_bytes);
  void remove_bitmaps();       // ours
  void fail_reads(bool fail);  // of the disk, with EIO
  // Guest writes of random length and place.
  void change_disk(int count);
  std::uint64_t below(std::uint64_t limit);
  std::uint64_t disk_bytes() const { return options_.disk_bytes; }
  std::string content();

  // The oracle after harm: what has a final name is complete; then, `runs` times, the guest writes and `-inc auto`
  // exits with 0, nothing is lost or left over, and the last level is what the disk holds. The second run is there
  // because a wrong bitmap shows in the level after the recovery.
  Violations recover_and_check(int runs = 2);
  // No run is under way and the last one succeeded.
  Violations check_settled();

  // What the last runs said, for a failed test's message.
  std::string last_words() const;

  static int total_faults();
  static void count_fault();
  static void count_gap_write();

 private:
  void install_hooks(Meddling meddling);
  void remember_transaction(const nlohmann::json& arguments);
  Violations run_and_check_auto();
  Violations check_folder() const;
  Violations check_qemu();

  SceneOptions options_;
  TempFolder temp_;
  std::unique_ptr<TmpfsFolder> tmpfs_;
  std::unique_ptr<PoweredFolder> power_;
  std::filesystem::path folder_;
  std::unique_ptr<BackgroundProgram> nbdkit_;
  QemuVm vm_;
  QmpProxy proxy_;
  std::filesystem::path tool_socket_;  // a link to the proxy's
  KnownLevels known_;
  std::unique_ptr<BackgroundProgram> tool_;
  std::optional<std::pair<std::chrono::milliseconds, int>> signal_after_;
  std::mt19937_64 random_;
  std::map<std::string, std::string> environment_;
  std::deque<std::string> last_words_;
  std::set<std::string> hidden_;
  int chains_ = 0;
  bool bitmaps_survived_ = true;
};

// What is in the files of a folder, the lock's aside.
std::map<std::string, std::string> files_in(const std::filesystem::path& folder);

// $QMPBACKUP_CRASH_SEED, or a new one; printed once.
std::uint64_t crash_seed();
// $QMPBACKUP_CRASH_ROUNDS=all.
bool all_rounds();

}  // namespace qmpbackup::test
