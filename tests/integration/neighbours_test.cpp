// Others at work on the same VM: their jobs, their events, their monitors; a slow or broken connection.
#include <atomic>
#include <thread>

#include "integration/scenario.hpp"
#include "support/qmp_proxy.hpp"

namespace qmpbackup::test {
namespace {

class NeighboursTest : public OneDiskTest {
 protected:
  void SetUp() override {
    OneDiskTest::SetUp();
    if (!IsSkipped() && !HasFatalFailure()) {
      proxy_ = std::make_unique<QmpProxy>(folder_ / "proxy", vm().socket());
    }
  }

  void TearDown() override {
    if (proxy_) {
      proxy().wait_until_idle();
      EXPECT_EQ(proxy().hook_error(), "");
    }
  }

  QmpProxy& proxy() { return *proxy_; }
  // As TestChain::take, but through the proxy.
  ProgramResult take_through_proxy(int level, const Arguments& more = {}) {
    chain().remember(level);
    const auto run =
        run_program(backup_command(proxy().path(), base(), "disk0", {"-inc", std::to_string(level)}) + more);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    proxy().wait_until_idle();
    return run;
  }

 private:
  std::unique_ptr<QmpProxy> proxy_;
};

TEST_F(NeighboursTest, Forged_Completion_Of_Another_Job_Does_Not_End_The_Run) {
  std::string job;  // ours, as the transaction names it
  proxy().on_client_message([&](int, const json& message) {
    if (message.at("execute") == "transaction") {
      for (const auto& action : message.at("arguments").at("actions")) {
        job = action.at("data").value("job-id", job);
      }
    }
    return Verdict::Forward;
  });
  proxy().after_reply([&](int index, const json&) {
    if (!job.empty() && proxy().commands().at(static_cast<std::size_t>(index)) == "transaction") {
      const json time = {{"seconds", 1}, {"microseconds", 0}};
      // The last one has even our own job's name: what happened is what query-jobs says.
      for (const auto& id : {std::string("foreign"), std::string("disk0"), job + "x", job}) {
        proxy().send_to_client(
            {{"event", "BLOCK_JOB_COMPLETED"},
             {"timestamp", time},
             {"data", {{"device", id}, {"type", "backup"}, {"len", 1}, {"offset", 1}, {"speed", 0}}}});
        proxy().send_to_client(
            {{"event", "JOB_STATUS_CHANGE"}, {"timestamp", time}, {"data", {{"id", id}, {"status", "concluded"}}}});
      }
      proxy().send_to_client({{"event", "BLOCK_JOB_ERROR"},
                              {"timestamp", time},
                              {"data", {{"device", "foreign"}, {"operation", "write"}, {"action", "report"}}}});
    }
    return Verdict::Forward;
  });
  const auto run = take_through_proxy(-1, {"--speed-limit", "4M"});
  EXPECT_FALSE(job.empty());
  EXPECT_GE(run.seconds, 1.0) << "the forged event came long before the job's end";
  chain().expect_sound(-1);
}

// One that hangs in its storage would keep the monitor busy for the run that comes to clean up.
TEST_F(NeighboursTest, Programs_That_A_Run_Starts_Do_Not_Get_Its_Connection) {
  fs::create_directory(folder_ / "bin");
  const std::string path = std::getenv("PATH");
  write_file(folder_ / "bin/qemu-img", "#!/bin/sh\nls -l /proc/$$/fd >> '" + (folder_ / "descriptors").string() +
                                           "'\nPATH='" + path + "' exec qemu-img \"$@\"\n");
  fs::permissions(folder_ / "bin/qemu-img", fs::perms::owner_all);
  const auto run = run_program(backup_command(vm().socket(), base(), "disk0"),
                               {.environment = {{"PATH", (folder_ / "bin").string() + ":" + path}}});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  const std::string descriptors = read_file(folder_ / "descriptors");
  EXPECT_NE(descriptors.find("pipe:"), std::string::npos);
  EXPECT_EQ(descriptors.find("socket:"), std::string::npos) << descriptors;
}

TEST_F(NeighboursTest, Missed_Events_Do_Not_Hang_The_Run) {
  proxy().on_event([](json&) { return Verdict::Drop; });
  take_through_proxy(-1);
  vm().write("disk0", 0, MiB, 0x12);
  take_through_proxy(0);
  chain().expect_sound(0);
}

TEST_F(NeighboursTest, Split_And_Delayed_Replies_Do_Not_Matter) {
  proxy().set_split(true);
  proxy().set_reply_delay(milliseconds(5));
  take_through_proxy(-1);
  vm().write("disk0", 0, MiB, 0x13);
  take_through_proxy(0);
  chain().expect_sound(0);
}

TEST_F(NeighboursTest, Job_On_Another_Node_Goes_On_Beside_The_Backup) {
  make_image(folder_ / "other.qcow2", "qcow2", 4 * MiB);
  vm().control().execute("blockdev-add",
                         {{"driver", "qcow2"},
                          {"node-name", "other"},
                          {"file", {{"driver", "file"}, {"filename", (folder_ / "other.qcow2").string()}}}});
  start_foreign_job("other", 4 * MiB, 8 * MiB);  // ends during the run
  chain().take(-1, {"--speed-limit", "4M"});
  chain().expect_sound(-1);
  vm().control().wait_event("BLOCK_JOB_COMPLETED", seconds(10),
                            [](const json& event) { return event.at("data").at("device") == "foreign"; });
  const auto jobs = vm().control().execute("query-jobs");
  ASSERT_EQ(jobs.size(), 1U) << "the other job's result waits for its owner: " << jobs;
  EXPECT_EQ(jobs[0]["id"], "foreign");
}

TEST_F(NeighboursTest, Other_Backup_Job_On_The_Disk_Is_Refused_And_Left_Alone) {
  chain().take(-1);
  start_foreign_job(vm().node_of("disk0"), disk_size);
  for (const auto* level : {"0", "auto"}) {
    const auto run = chain().run({"-inc", level});
    EXPECT_EQ(run.exit_code, 1) << run.err;
    EXPECT_TRUE(contains(run.err, "'foreign'")) << run.err;
  }
  const auto jobs = vm().control().execute("query-jobs");
  ASSERT_EQ(jobs.size(), 1U);
  EXPECT_EQ(jobs[0]["status"], "running");
  vm().control().execute("job-cancel", {{"id", "foreign"}});
  vm().control().wait_event("BLOCK_JOB_CANCELLED");
  chain().take(0);
  chain().expect_sound(0);
}

TEST_F(NeighboursTest, Foreign_Bitmaps_Nodes_And_Descriptor_Sets_Are_Left_Alone) {
  auto& control = vm().control();
  const auto node = vm().node_of("disk0");
  control.execute("block-dirty-bitmap-add", {{"node", node}, {"name", "foreign"}});
  control.execute("blockdev-add", {{"driver", "null-co"}, {"node-name", "nowhere"}, {"size", 512}});
  const auto fdset = control.execute("add-fd", {{"opaque", "foreign"}}, {STDERR_FILENO}).at("fdset-id");
  chain().take(-1);
  chain().take(0);
  chain().expect_sound(0);
  EXPECT_EQ(vm().bitmaps("disk0").size(), 2U);
  EXPECT_FALSE(vm().node("nowhere").is_null());
  EXPECT_TRUE(std::ranges::any_of(control.execute("query-fdsets"),
                                  [&](const json& set) { return set.at("fdset-id") == fdset; }));
}

// QEMU 7.2 aborts on that while it formats an image itself.
TEST_F(NeighboursTest, Other_Client_That_Looks_At_All_Nodes_All_The_Time_Ends_No_Qemu) {
  std::atomic<bool> done = false;
  std::thread other([&] {
    while (!done) {
      try {
        vm().control().execute("query-named-block-nodes");
      } catch (const std::exception&) {
        return;  // the chain below says it better
      }
    }
  });
  for (int level = -1; level < 12; ++level) {
    EXPECT_EQ(chain().run({"-inc", std::to_string(level)}).exit_code, 0) << level;
  }
  done = true;
  other.join();
  EXPECT_EQ(vm().control().execute("query-status").at("status"), "prelaunch");
}

TEST_F(NeighboursTest, Busy_Monitor_Is_Reported_Within_The_Deadline) {
  {
    const QmpTestClient other(vm().socket());
    const auto run = chain().run({"--connect-timeout", "1"});
    EXPECT_EQ(run.exit_code, 4);
    EXPECT_LT(run.seconds, 20.0);
    EXPECT_TRUE(contains(run.err, "another client holds this monitor")) << run.err;
  }
  chain().take(-1);
  chain().expect_sound(-1);
}

TEST_F(NeighboursTest, Second_Run_On_A_Chain_Is_Told_That_The_First_One_Holds_It) {
  chain().remember(-1);
  auto first = start_slow_run();
  for (const auto& arguments : {Arguments{}, Arguments{"-inc", "auto"}, Arguments{"-cleanBitmap"}}) {
    const auto second = chain().run(arguments);
    EXPECT_EQ(second.exit_code, 5) << second.err;
    EXPECT_TRUE(contains(second.err, base().string())) << second.err;
  }
  unlimit_backup_job();
  EXPECT_EQ(first.wait().exit_code, 0) << first.err();
  chain().expect_sound(-1);
}

TEST_F(NeighboursTest, Stopped_Qemu_Is_Reported_Within_The_Deadline) {
  ::kill(vm().pid(), SIGSTOP);
  const auto run = chain().run({"--connect-timeout", "1"});
  ::kill(vm().pid(), SIGCONT);
  EXPECT_EQ(run.exit_code, 4) << run.err;
  EXPECT_LT(run.seconds, 20.0);
  chain().take(-1);
  chain().expect_sound(-1);
}

TEST_F(NeighboursTest, Qemu_That_Stops_During_The_Run_Is_Reported_And_The_Next_Run_Needs_No_Help) {
  chain().take(-1);
  vm().write("disk0", 0, 4 * MiB, 0x14);
  chain().remember(0);
  auto run = start_slow_run({"-inc", "0", "--stall-timeout", "1", "--connect-timeout", "1"});
  ::kill(vm().pid(), SIGSTOP);
  const auto result = run.wait(seconds(30));
  ::kill(vm().pid(), SIGCONT);
  EXPECT_EQ(result.exit_code, 4) << result.err;
  unlimit_backup_job();
  const auto next = chain().run({"-inc", "auto"});
  EXPECT_EQ(next.exit_code, 0) << next.err;
  // Whether the first run's level was completed or taken back: nothing was written since.
  chain().remember(1);
  chain().expect_sound(chain().oracle().committed_levels().back());
}

TEST_F(NeighboursTest, Lost_Connection_Is_Reported_And_What_Was_Begun_Is_Undone) {
  chain().take(-1);
  const auto before = read_file(chain().oracle().manifest());
  vm().write("disk0", 0, 4 * MiB, 0x15);
  bool begun = false;
  proxy().on_client_message([&](int, const json& message) {
    begun = begun || contains(message.dump(), "blockdev-backup");
    return Verdict::Forward;
  });
  proxy().after_reply([&](int, const json&) {
    if (!begun) {
      return Verdict::Forward;
    }
    proxy().clear();
    return Verdict::CloseClient;
  });
  const auto run = run_program(backup_command(proxy().path(), base(), "disk0", {"-inc", "0", "--speed-limit", "32K"}));
  EXPECT_EQ(run.exit_code, 4) << run.err;
  EXPECT_TRUE(contains(run.err, "broke")) << run.err;
  EXPECT_TRUE(begun);
  chain().expect_sound(-1);
  EXPECT_EQ(read_file(chain().oracle().manifest()), before);
  chain().take(0);
  chain().expect_sound(0);
}

TEST_F(NeighboursTest, Connection_Lost_Before_The_Run_Began_Leaves_Nothing_For_Long) {
  chain().take(-1);
  vm().write("disk0", 0, MiB, 0x17);
  bool looking = false;
  proxy().on_client_message([&](int, const json& message) {
    looking = looking || message.at("execute") == "transaction";  // compares the bitmap with its marks
    return Verdict::Forward;
  });
  proxy().after_reply([&](int, const json&) { return looking ? Verdict::CloseClient : Verdict::Forward; });
  EXPECT_EQ(run_program(backup_command(proxy().path(), base(), "disk0", {"-inc", "0"})).exit_code, 4);
  EXPECT_TRUE(looking);
  chain().take(0);
  chain().expect_sound(0);
}

TEST_F(NeighboursTest, Monitor_That_Goes_Away_While_Qemu_Lives_Leaves_Nothing_For_Long) {
  auto gateway = std::make_unique<QmpProxy>(folder_ / "gateway", vm().socket());
  BackgroundProgram run(backup_command(gateway->path(), base(), "disk0", {"--speed-limit", "32K"}));
  wait_for_backup_job(vm(), run);
  fs::remove(folder_ / "gateway");
  gateway.reset();
  EXPECT_EQ(run.wait().exit_code, 4) << run.err();
  unlimit_backup_job();
  chain().remember(-1);
  const auto next = chain().run({"-inc", "auto"});
  EXPECT_EQ(next.exit_code, 0) << next.err;
  chain().expect_sound(-1);
}

TEST_F(NeighboursTest, Qemu_That_Ends_During_The_Run_Leaves_The_Chain_As_It_Was) {
  chain().take(-1);
  vm().restart();  // the bitmap is in the image now
  vm().write("disk0", 0, 4 * MiB, 0x16);
  auto run = start_slow_run({"-inc", "0"});
  vm().terminate();
  EXPECT_EQ(run.wait().exit_code, 4) << run.err();
  vm().start();
  chain().take(0);
  chain().expect_sound(0);
}

}  // namespace
}  // namespace qmpbackup::test
