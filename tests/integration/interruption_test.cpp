// Signals and stalls: the job is cancelled, nothing is left, the chain is as it was.
#include "integration/scenario.hpp"
#include "support/fuse_folder.hpp"
#include "support/qmp_proxy.hpp"

namespace qmpbackup::test {
namespace {

struct SignalCase {
  const char* name;
  int signal;
  friend void PrintTo(const SignalCase& printed, std::ostream* out) { *out << printed.name; }
};

class SignalTest : public OneDiskTest, public testing::WithParamInterface<SignalCase> {};

TEST_P(SignalTest, Interrupted_Full_Leaves_Nothing) {
  auto run = start_slow_run();
  run.send_signal(GetParam().signal);
  const auto result = run.wait(seconds(30));
  EXPECT_EQ(result.exit_code, 128 + GetParam().signal) << result.err;
  EXPECT_EQ(result.signal, 0) << "it ends by itself";
  chain().expect_no_chain();
  chain().take(-1);
  chain().expect_sound(-1);
}

TEST_P(SignalTest, Interrupted_Incremental_Leaves_The_Chain_As_It_Was) {
  chain().take(-1);
  vm().write("disk0", 0, 4 * MiB, 0x21);
  chain().take(0);
  const auto files = files_like(backups(), "");
  const auto manifest = read_file(chain().oracle().manifest());
  vm().write("disk0", MiB, 4 * MiB, 0x22);
  auto run = start_slow_run({"-inc", "1"});
  vm().write("disk0", 3 * MiB, MiB, 0x23);  // during the run
  run.send_signal(GetParam().signal);
  EXPECT_EQ(run.wait(seconds(30)).exit_code, 128 + GetParam().signal) << run.err();
  EXPECT_EQ(files_like(backups(), ""), files);
  EXPECT_EQ(read_file(chain().oracle().manifest()), manifest);
  chain().expect_sound(0);
  chain().take(1);
  chain().expect_sound(1);
}

INSTANTIATE_TEST_SUITE_P(By, SignalTest,
                         testing::Values(SignalCase{"SIGINT", SIGINT}, SignalCase{"SIGTERM", SIGTERM},
                                         SignalCase{"SIGHUP", SIGHUP}),
                         [](const auto& param) { return param.param.name; });

class InterruptionTest : public OneDiskTest {};

TEST_F(InterruptionTest, Interrupted_Run_Prints_One_Line_And_A_Json_Error) {
  auto run = start_slow_run({"--json"});
  run.send_signal(SIGINT);
  const auto result = run.wait(seconds(30));
  EXPECT_EQ(std::ranges::count(result.err, '\n'), 1) << result.err;
  const auto last = json_lines(result.out).back();
  EXPECT_EQ(last["message_type"], "error");
  EXPECT_EQ(last["code"], 130);
}

TEST_F(InterruptionTest, Second_Signal_Leaves_At_Once_And_The_Next_Run_Cleans_Up) {
  chain().take(-1);
  vm().write("disk0", 0, 4 * MiB, 0x31);
  chain().remember(0);
  QmpProxy proxy(folder_ / "proxy", vm().socket());
  std::atomic<bool> cancelling{false};
  proxy.on_client_message([&](int, const json& message) {
    if (message.at("execute") != "job-cancel") {
      return Verdict::Forward;
    }
    cancelling = true;
    return Verdict::Drop;  // QEMU seems to hang
  });
  BackgroundProgram run(backup_command(proxy.path(), base(), "disk0", {"-inc", "0", "--speed-limit", "32K"}));
  wait_for_backup_job(vm(), run);
  run.send_signal(SIGINT);
  wait_until("the run to cancel its job", [&] { return cancelling.load(); });
  EXPECT_TRUE(run.running());
  run.send_signal(SIGINT);
  EXPECT_TRUE(run.finished_within(seconds(5)));
  EXPECT_EQ(run.wait().exit_code, 130);
  proxy.wait_until_idle();
  EXPECT_EQ(proxy.hook_error(), "");
  EXPECT_NE(backup_job(vm()), "") << "the job outlives the run";

  unlimit_backup_job();
  const auto next = chain().run({"-inc", "0"});
  EXPECT_EQ(next.exit_code, 0) << next.err;
  EXPECT_TRUE(contains(next.err, "earlier run")) << next.err;
  chain().expect_sound(0);
}

TEST_F(InterruptionTest, Run_That_Was_Killed_Is_Resolved_By_The_Next_One) {
  chain().take(-1);
  vm().write("disk0", 0, 4 * MiB, 0x32);
  chain().remember(0);
  auto run = start_slow_run({"-inc", "0"});
  run.send_signal(SIGKILL);
  run.wait();
  vm().write("disk0", 2 * MiB, 4 * MiB, 0x33);  // after the level's point in time
  BackgroundProgram next(chain().command({"-inc", "0", "--speed-limit", "48K"}));
  wait_until("the job to go at the new run's speed; that says: " + next.err(), [&] {
    const auto jobs = vm().control().execute("query-block-jobs");
    return !jobs.empty() && jobs.front().at("speed") == 48 * KiB;
  });
  unlimit_backup_job();
  EXPECT_EQ(next.wait().exit_code, 0) << next.err();
  EXPECT_TRUE(contains(next.out(), "completed from an earlier run")) << next.out();
  chain().expect_sound(0);
  chain().take(1);
  chain().expect_sound(1);
}

TEST_F(InterruptionTest, Ctrl_C_On_A_Terminal_Ends_The_Run_Cleanly) {
  bool typed = false;
  PtyOptions options;
  options.type_when = [&](const std::string& seen) -> std::string {
    if (typed || !contains(seen, "%") || backup_job(vm()).empty()) {
      return "";
    }
    typed = true;
    return "\x03";
  };
  const auto run = run_on_pty(chain().command({"--speed-limit", "32K"}), options);
  EXPECT_TRUE(typed) << run.out;
  EXPECT_EQ(run.exit_code, 130) << run.out;
  EXPECT_FALSE(run.timed_out);
  chain().expect_no_chain();
}

TEST_F(InterruptionTest, Stalled_Job_Is_Cancelled) {
  chain().take(-1);
  vm().write("disk0", 0, 4 * MiB, 0x34);
  auto run = start_slow_run({"-inc", "0", "--stall-timeout", "2"});
  vm().control().execute("block-job-pause", {{"device", backup_job(vm())}});
  const auto result = run.wait(seconds(30));
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_TRUE(contains(result.err, "--stall-timeout")) << result.err;
  chain().expect_sound(-1);
  chain().take(0);
  chain().expect_sound(0);
}

// As a network file system whose server is gone: whoever looks at a file waits, and no signal helps.
TEST_F(InterruptionTest, Storage_That_Hangs_Holds_Neither_The_Guest_Nor_The_Run) {
  FuseFolder target(64 * MiB);
  QMPBACKUP_REQUIRE(target.problem());
  fs::create_directory(target / "backups");
  TestChain chain(vm(), "disk0", target / "backups/disk0");
  BackgroundProgram run(
      chain.command({"-inc", "-1", "--stall-timeout", "2", "--speed-limit", "1M", "--compress", "none"}));
  wait_for_backup_job(vm(), run);
  wait_until(  // the run waits for its job alone, and asks QEMU nothing else
      "the copy", [&] { return vm().control().execute("query-jobs").at(0).at("current-progress") >= 2 * MiB; },
      seconds(60));
  target.hang();
  std::chrono::steady_clock::duration longest{};
  while (!run.finished_within(milliseconds(100))) {
    const auto asked = std::chrono::steady_clock::now();
    vm().status();
    longest = std::max(longest, std::chrono::steady_clock::now() - asked);
    ASSERT_LT(longest, seconds(30)) << "QEMU stands still";
  }
  const auto result = run.wait();
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_TRUE(contains(result.err, "whether the target's storage hangs")) << result.err;
  const auto next = run_program(chain.command({"-inc", "auto", "--stall-timeout", "1"}));
  EXPECT_EQ(next.exit_code, 1) << next.err;
  EXPECT_TRUE(contains(next.err, "does not answer")) << next.err;
  target.go_on();
  chain.take_auto(-1);
  chain.expect_sound(-1);
}

// The bitmap of the killed run comes back with the disk's image, when the run itself was taken back already.
TEST_F(InterruptionTest, Killed_Full_Leaves_No_Bitmap_Though_The_Disk_Is_Away_When_It_Is_Taken_Back) {
  auto run = start_slow_run();
  run.send_signal(SIGKILL);
  run.wait();
  vm().stop_cleanly();  // which stores the bitmap
  TempFolder elsewhere;
  QemuVm without_it(elsewhere, {new_disk("disk1", MiB)}, vm_options());
  without_it.start();
  const auto refused = run_program(backup_command(without_it.socket(), base(), "disk0", {"-inc", "auto"}));
  EXPECT_EQ(refused.exit_code, 1) << refused.err;
  without_it.stop_cleanly();
  vm().start();
  ASSERT_EQ(vm().our_bitmaps("disk0").size(), 1U);
  chain().take_auto(-1);
  chain().expect_sound(-1);
}

// It shows no bitmap yet, as if the killed run had left none.
TEST_F(InterruptionTest, Killed_Full_Is_Not_Taken_Back_By_A_VM_That_Waits_For_A_Migration) {
  auto run = start_slow_run();
  run.send_signal(SIGKILL);
  run.wait();
  vm().stop_cleanly();
  vm().options().extra_arguments = {"-incoming", "defer"};
  vm().start();
  const auto refused = chain().run({"-inc", "auto"});
  EXPECT_EQ(refused.exit_code, 1) << refused.err;
  EXPECT_TRUE(contains(refused.err, "belong to another QEMU")) << refused.err;
  EXPECT_TRUE(chain().manifest().contains("pending"));
  vm().stop_cleanly();
  vm().options().extra_arguments = {};
  vm().start();
  chain().take_auto(-1);
  chain().expect_sound(-1);
}

TEST_F(InterruptionTest, Job_That_Something_Else_Cancels_Fails_The_Run) {
  for (const auto* force : {"job-cancel", "block-job-cancel"}) {
    auto run = start_slow_run();
    const auto job = backup_job(vm());
    vm().control().execute(force, {{std::string(force) == "job-cancel" ? "id" : "device", job}});
    EXPECT_EQ(run.wait(seconds(30)).exit_code, 1) << run.err();
    EXPECT_TRUE(contains(run.err(), "cancelled")) << run.err();
    EXPECT_FALSE(contains(run.err(), "storage")) << run.err();
    chain().expect_no_chain();
  }
}

TEST_F(InterruptionTest, Interrupted_Full_Keeps_The_Empty_Image_It_Was_Given) {
  make_image(chain().file(-1), "qcow2", disk_size);
  const auto image = read_file(chain().file(-1));
  auto run = start_slow_run();
  run.send_signal(SIGTERM);
  EXPECT_EQ(run.wait(seconds(30)).exit_code, 143) << run.err();
  EXPECT_EQ(read_file(chain().file(-1)), image);
  chain().take(-1);
  chain().expect_sound(-1);
}

}  // namespace
}  // namespace qmpbackup::test
