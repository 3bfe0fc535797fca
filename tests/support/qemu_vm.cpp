#include "support/qemu_vm.hpp"

#include <fmt/format.h>
#include <pwd.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

#include "support/images.hpp"

namespace qmpbackup::test {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr auto start_patience = std::chrono::seconds(30);
constexpr auto stop_patience = std::chrono::seconds(60);

// A value inside a QEMU option.
std::string quoted(const std::string& value) {
  std::string result;
  for (const char character : value) {
    result += character == ',' ? ",," : std::string(1, character);
  }
  return result;
}

std::string also(const std::string& options) {
  return options.empty() ? "" : "," + options;
}

// The node that the device is attached to, with -blockdev.
std::string top_node(const DiskSpec& disk) {
  return disk.id + (disk.throttle ? "-throttle" : "-fmt");
}

bool is_ours(const std::string& name) {
  return name.find("qmpbackup") != std::string::npos;
}

// A set is taken for a foreign one only if every descriptor in it says so.
bool is_ours(const json& fdset) {
  return std::ranges::any_of(fdset.at("fds"), [](const json& fd) {
    return !fd.contains("opaque") || is_ours(fd["opaque"].get<std::string>());
  });
}

void give(const fs::path& path, const passwd& user) {
  if (::chown(path.c_str(), user.pw_uid, user.pw_gid) != 0) {
    throw_errno("chown " + path.string());
  }
}

}  // namespace

QemuVm::QemuVm(const TempFolder& folder, std::vector<DiskSpec> disks, VmOptions options)
    : folder_(folder), sockets_("/tmp"), disks_(std::move(disks)), options_(std::move(options)) {}

QemuVm::~QemuVm() = default;

std::vector<std::string> QemuVm::command_line() const {
  // qemu-io prints to QEMU's stdout, which must be written line by line to be there when the monitor answers.
  std::vector<std::string> argv = {
      "stdbuf",      "-oL",      options_.binary, "-machine", options_.machine + ",accel=" + options_.accelerators,
      "-nodefaults", "-display", "none",          "-m",       "64"};
  const auto add = [&argv](std::initializer_list<std::string> arguments) { argv.insert(argv.end(), arguments); };
  for (const auto* name : {"qmp", "control"}) {
    add({"-qmp", "unix:" + (sockets_ / name).string() + ",server=on,wait=off"});
  }
  if (options_.tcp_socket) {
    add({"-chardev", "socket,id=tcp,host=127.0.0.1,port=0,server=on,wait=off", "-mon", "chardev=tcp,mode=control"});
  }
  if (!options_.name.empty()) {
    add({"-name", quoted(options_.name)});
  }
  if (!options_.uuid.empty()) {
    add({"-uuid", options_.uuid});
  }
  if (options_.start_paused) {
    add({"-S"});
  }
  for (const auto& disk : disks_) {
    add_disk(argv, disk);
  }
  argv.insert(argv.end(), options_.extra_arguments.begin(), options_.extra_arguments.end());
  return argv;
}

void QemuVm::add_disk(std::vector<std::string>& argv, const DiskSpec& disk) const {
  const auto add = [&argv](const std::string& option, const std::string& value) {
    argv.insert(argv.end(), {option, value});
  };
  const auto& id = disk.id;
  std::string drive = id;
  switch (disk.style) {
    case DiskSpec::Style::Drive:
      add("-drive",
          fmt::format("if=none,id={},file={},format={},discard=unmap{}{}", id, quoted(disk.image), disk.format,
                      disk.throttle ? ",throttling.iops-total=1000000000" : "", also(disk.extra)));
      break;
    case DiskSpec::Style::Blockdev:
      drive = top_node(disk);
      add("-blockdev", fmt::format("node-name={}-file,{}", id,
                                   disk.file_node.empty() ? "driver=file,discard=unmap,filename=" + quoted(disk.image)
                                                          : disk.file_node));
      add("-blockdev", fmt::format("node-name={0}-fmt,driver={1},file={0}-file,discard=unmap{2}", id, disk.format,
                                   also(disk.extra)));
      if (disk.throttle) {
        add("-object", fmt::format("throttle-group,id=group-{}", id));
        add("-blockdev",
            fmt::format("node-name={0}-throttle,driver=throttle,throttle-group=group-{0},file={0}-fmt", id));
      }
      break;
  }
  if (disk.iothread) {
    add("-object", "iothread,id=iothread-" + id);
  }
  add("-device", fmt::format("virtio-blk-pci,id={0}-dev,drive={1}{2}{3}", id, drive,
                             disk.iothread ? ",iothread=iothread-" + id : "", also(disk.device_extra)));
}

void QemuVm::give_to_user() const {
  const auto* user = ::getpwnam(options_.run_as_user.c_str());
  if (user == nullptr) {
    throw std::runtime_error("no such user: " + options_.run_as_user);
  }
  give(sockets_.path(), *user);
  for (const auto& disk : disks_) {
    give(disk.image, *user);
  }
  fs::permissions(folder_.path(), fs::perms::group_exec | fs::perms::others_exec, fs::perm_options::add);
}

void QemuVm::start() {
  if (running()) {
    throw std::logic_error("the VM runs already");
  }
  control_.reset();  // of a QEMU that somebody else killed
  if (!options_.run_as_user.empty()) {
    give_to_user();
  }
  for (const auto* name : {"qmp", "control"}) {
    fs::remove(sockets_ / name);  // what a killed QEMU left
  }
  process_ = std::make_unique<BackgroundProgram>(command_line(), RunOptions{.user = options_.run_as_user});
  const auto deadline = std::chrono::steady_clock::now() + start_patience;
  while (!fs::exists(sockets_ / "control")) {
    if (process_->finished_within(std::chrono::milliseconds(10)) || std::chrono::steady_clock::now() > deadline) {
      throw std::runtime_error("QEMU did not start: " + log());
    }
  }
  while (!control_) {
    try {
      control_ = std::make_unique<QmpTestClient>(sockets_ / "control");
    } catch (const std::system_error&) {  // bound, and not listening yet
      if (process_->finished_within(std::chrono::milliseconds(10)) || std::chrono::steady_clock::now() > deadline) {
        throw std::runtime_error("QEMU did not start: " + log());
      }
    }
  }
  if (options_.tcp_socket) {
    for (const auto& chardev : control().execute("query-chardev")) {
      if (chardev.at("label") == "tcp") {  // "disconnected:tcp:127.0.0.1:PORT,server=on"
        const auto name = chardev.at("filename").get<std::string>();
        tcp_address_ = name.substr(name.find("tcp:"));
        tcp_address_.resize(tcp_address_.find(','));
      }
    }
  }
}

void QemuVm::stop_cleanly() {
  try {
    control().try_execute("quit");
  } catch (const std::runtime_error&) {
    // QEMU may be gone before its answer is read; whether it ended is seen below.
  }
  end_process(0);
}

void QemuVm::terminate() {
  end_process(SIGTERM);
}

void QemuVm::kill() {
  end_process(SIGKILL);
}

void QemuVm::end_process(int signal) {
  if (signal != 0) {
    process().send_signal(signal);
  }
  if (process().wait(stop_patience).timed_out) {
    throw std::runtime_error("QEMU did not end: " + log());
  }
  control_.reset();
}

void QemuVm::restart() {
  stop_cleanly();
  start();
}

bool QemuVm::running() {
  return process_ && process_->running();
}

pid_t QemuVm::pid() const {
  return process_->pid();
}

int QemuVm::ended_by() const {
  return process_->wait(stop_patience).signal;
}

BackgroundProgram& QemuVm::process() {
  if (!process_) {
    throw std::logic_error("the VM was not started");
  }
  return *process_;
}

QmpTestClient& QemuVm::control() {
  if (!control_) {
    throw std::logic_error("the VM does not run");
  }
  return *control_;
}

DiskSpec& QemuVm::disk(const std::string& id) {
  const auto found = std::ranges::find(disks_, id, &DiskSpec::id);
  if (found == disks_.end()) {
    throw std::logic_error("no disk " + id);
  }
  return *found;
}

std::string QemuVm::tcp_address() const {
  return tcp_address_;
}

std::string QemuVm::log() const {
  return process_ ? process_->err() : "";
}

std::string QemuVm::qdev_path(const std::string& id) const {
  return "/machine/peripheral/" + id + "-dev/virtio-backend";
}

std::string QemuVm::qemu_io(const std::string& id, const std::string& command) {
  const std::lock_guard lock(qemu_io_mutex_);
  const auto out_before = process().out_size();
  const auto err_before = process().err_size();
  const auto reply = control().hmp(fmt::format("qemu-io -d {} \"{}\"", qdev_path(id), command));
  auto out = process().out(out_before);
  const auto err = process().err(err_before);
  if (!reply.empty() || out.find("failed") != std::string::npos || err.find("not found") != std::string::npos) {
    throw std::runtime_error(fmt::format("qemu-io \"{}\" on {}: {}{}{}", command, id, reply, out, err));
  }
  return out;
}

void QemuVm::change(const std::string& id, const std::string& command, const std::string& done, std::uint64_t offset,
                    std::uint64_t length) {
  const auto out = qemu_io(id, fmt::format("{} {} {}", command, offset, length));
  if (out.find(fmt::format("{0} {1}/{1} bytes at offset {2}", done, length, offset)) == std::string::npos) {
    throw std::runtime_error(fmt::format("{} on {} at {}, {} bytes: {}", command, id, offset, length, out));
  }
}

void QemuVm::write(const std::string& id, std::uint64_t offset, std::uint64_t length, std::uint8_t pattern) {
  change(id, fmt::format("write -P {}", pattern), "wrote", offset, length);
}

void QemuVm::write_zeroes(const std::string& id, std::uint64_t offset, std::uint64_t length) {
  change(id, "write -z", "wrote", offset, length);
}

void QemuVm::discard(const std::string& id, std::uint64_t offset, std::uint64_t length) {
  change(id, "discard", "discard", offset, length);
}

void QemuVm::flush(const std::string& id) {
  qemu_io(id, "flush");
}

void QemuVm::resize(const std::string& id, std::uint64_t size_bytes) {
  json arguments = {{"size", size_bytes}};
  const auto& changed = disk(id);
  switch (changed.style) {
    case DiskSpec::Style::Drive:
      arguments["device"] = id;
      break;
    case DiskSpec::Style::Blockdev:
      arguments["node-name"] = top_node(changed);
      break;
  }
  control().execute("block_resize", arguments);
}

std::uint64_t QemuVm::size(const std::string& id) {
  return node(node_of(id)).at("image").at("virtual-size").get<std::uint64_t>();
}

fs::path QemuVm::disk_content(const std::string& id) {
  if (running()) {
    flush(id);
  }
  const auto copy = folder_ / fmt::format("content-{}-{}.raw", id, ++copies_);
  convert_to_raw(disk(id).image, disk(id).format, copy);
  return copy;
}

std::string QemuVm::status() {
  return control().execute("query-status").at("status").get<std::string>();
}

json QemuVm::node(const std::string& node_name) {
  for (auto& candidate : nodes()) {
    if (candidate.at("node-name") == node_name) {
      return std::move(candidate);
    }
  }
  return nullptr;
}

json QemuVm::nodes() {
  return control().execute("query-named-block-nodes", {{"flat", true}});
}

std::string QemuVm::node_of(const std::string& id) {
  const auto& wanted = disk(id);
  if (wanted.style == DiskSpec::Style::Blockdev) {
    return id + "-fmt";
  }
  for (const auto& candidate : nodes()) {
    if (candidate.at("drv") == wanted.format && candidate.at("file") == wanted.image.string()) {
      return candidate.at("node-name").get<std::string>();
    }
  }
  throw std::runtime_error("no node for " + id);
}

std::vector<json> QemuVm::bitmaps(const std::string& id) {
  return node(node_of(id)).value("dirty-bitmaps", std::vector<json>());
}

std::vector<std::string> QemuVm::our_bitmaps(const std::string& id) {
  std::vector<std::string> names;
  for (const auto& bitmap : bitmaps(id)) {
    if (auto name = bitmap.value("name", ""); name.starts_with("qmpbackup-")) {
      names.push_back(std::move(name));
    }
  }
  return names;
}

std::vector<std::string> QemuVm::our_leftovers(Fdsets fdsets) {
  std::vector<std::string> found;
  for (const auto& candidate : nodes()) {
    if (const auto name = candidate.at("node-name").get<std::string>(); is_ours(name)) {
      found.push_back("node " + name);
    }
  }
  for (const auto& job : control().execute("query-jobs")) {
    if (is_ours(job.at("id").get<std::string>())) {
      found.push_back("job " + job.dump());
    }
  }
  if (fdsets == Fdsets::Count) {
    for (const auto& fdset : control().execute("query-fdsets")) {
      if (is_ours(fdset)) {
        found.push_back("fdset " + fdset.dump());
      }
    }
  }
  return found;
}

}  // namespace qmpbackup::test
