// A full and its incrementals: what they hold, how large they are, what is said about them.
#include "integration/scenario.hpp"
#include "support/random_writer.hpp"

namespace qmpbackup::test {
namespace {

class ChainTest : public IntegrationTest {};

TEST_F(ChainTest, Full_And_Ten_Incrementals_Restore_Each_Point_In_Time_Across_A_Restart) {
  constexpr std::uint64_t size = 32 * MiB;
  QemuVm vm(folder_, {new_disk("disk0", size)});
  vm.start();
  TestChain chain(vm, "disk0", base());
  RandomWriter writer(20261122);
  writer.mutate(vm, "disk0", size, 60);
  chain.take(-1);
  for (int level = 0; level < 10; ++level) {
    writer.mutate(vm, "disk0", size, 15);
    if (level == 5) {
      vm.restart();  // the bitmap is stored in the image, and goes on
      writer.mutate(vm, "disk0", size, 5);
    }
    chain.take(level);
  }
  chain.expect_sound(9);
}

TEST_F(ChainTest, Level_Is_About_As_Large_As_What_Changed) {
  constexpr std::uint64_t tables = 512 * KiB;  // header, refcounts, L1 and L2 of a 64 MiB image
  QemuVm vm(folder_, {new_disk("disk0", 64 * MiB)});
  vm.start();
  TestChain chain(vm, "disk0", base());
  vm.write("disk0", 0, 4 * MiB, 0x21);
  const auto full = summary_of(chain.take(-1, {"--json", "--compress", "none"}))["disks"][0];
  EXPECT_EQ(full["virtual_size"], 64 * MiB);
  EXPECT_LE(full["file_size"], 4 * MiB + 8 * MiB);  // clusters of 1 MiB: one for each kind of table

  vm.write("disk0", 100 * KiB, 1, 0x31);
  vm.write("disk0", 10 * MiB, 64 * KiB, 0x32);
  vm.write("disk0", 20 * MiB, 128 * KiB, 0x33);
  const auto written = summary_of(chain.take(0, {"--json", "--compress", "none"}))["disks"][0];
  EXPECT_GE(written["bytes_copied"], 256 * KiB);
  EXPECT_LE(written["bytes_copied"], 256 * KiB + marks);
  EXPECT_LE(written["file_size"], 256 * KiB + marks + tables);
  EXPECT_EQ(written["file_size"], fs::file_size(chain.file(0)));

  vm.write_zeroes("disk0", 0, 2 * MiB);
  vm.discard("disk0", 2 * MiB, 2 * MiB);
  const auto zeroed = summary_of(chain.take(1, {"--json", "--compress", "none"}))["disks"][0];
  EXPECT_LE(zeroed["bytes_copied"], 4 * MiB + marks);
  EXPECT_LE(zeroed["file_size"], marks + tables) << "zeros take no room";

  const auto nothing = summary_of(chain.take(2, {"--json", "--compress", "none"}))["disks"][0];
  EXPECT_LE(nothing["bytes_copied"], marks);
  chain.expect_sound(2);
}

TEST_F(ChainTest, Default_Compression_Makes_Small_Files) {
  QemuVm vm(folder_, {new_disk("disk0", 16 * MiB)});
  vm.start();
  TestChain chain(vm, "disk0", base());
  vm.write("disk0", 0, 16 * MiB, 0x42);
  const auto full = summary_of(chain.take(-1, {"--json"}))["disks"][0];
  EXPECT_LE(full["file_size"], 8 * MiB);
  vm.write("disk0", 0, 8 * MiB, 0x43);
  const auto incremental = summary_of(chain.take(0, {"--json"}))["disks"][0];
  EXPECT_LE(incremental["file_size"], MiB);
  chain.expect_sound(0);
}

struct SizeCase {
  const char* name;
  std::uint64_t bytes;
  const char* format = "qcow2";
  friend void PrintTo(const SizeCase& printed, std::ostream* out) { *out << printed.name; }
};

class SizeTest : public IntegrationTest, public testing::WithParamInterface<SizeCase> {};

TEST_P(SizeTest, Any_Size_Is_Backed_Up_To_The_Byte) {
  const auto size = GetParam().bytes;
  QemuVm vm(folder_, {new_disk("disk0", size, GetParam().format)});
  vm.start();
  TestChain chain(vm, "disk0", base());
  const auto end_part = std::min<std::uint64_t>(size, 1536);
  vm.write("disk0", size - end_part, end_part, 0x51);
  chain.take(-1);
  vm.write("disk0", size - 512, 512, 0x52);
  chain.take(0);
  vm.write("disk0", 0, 512, 0x53);
  chain.take(1);
  chain.expect_sound(1);
}

INSTANTIATE_TEST_SUITE_P(Odd, SizeTest,
                         testing::Values(SizeCase{"One_Sector", 512},
                                         SizeCase{"Sector_Less_Than_A_Granule", 64 * KiB - 512},
                                         SizeCase{"Sector_More_Than_A_Granule", 64 * KiB + 512},
                                         SizeCase{"Sector_More_Than_One_MiB", MiB + 512},
                                         SizeCase{"Raw", MiB + 512, "raw"},
                                         SizeCase{"Sector_More_Than_Three_GiB", 3 * GiB + 512}),
                         [](const auto& param) { return param.param.name; });

struct WayCase {
  const char* name;
  Arguments arguments;
  const char* compression;
  friend void PrintTo(const WayCase& printed, std::ostream* out) { *out << printed.name; }
};

class WayTest : public OneDiskTest, public testing::WithParamInterface<WayCase> {};

TEST_P(WayTest, Every_Way_Of_Writing_Restores) {
  const auto& way = GetParam();
  chain().take(-1, way.arguments);
  vm().write("disk0", 3 * MiB + 512, 300 * KiB, 0x61);
  vm().discard("disk0", MiB, MiB);
  chain().take(0, way.arguments);
  chain().expect_sound(0);
  EXPECT_EQ(chain().manifest()["levels"][0]["compression"], way.compression);
  EXPECT_EQ(run_program({"qemu-img", "check", "-q", chain().file(0)}).exit_code, 0);
}

INSTANTIATE_TEST_SUITE_P(By, WayTest,
                         testing::Values(WayCase{"Default", {}, "zstd"},
                                         WayCase{"Zstd", {"--compress", "zstd"}, "zstd"},
                                         WayCase{"Zlib", {"--compress", "zlib"}, "zlib"},
                                         WayCase{"None", {"--compress=none"}, "none"},
                                         WayCase{"Buffered", {"--buffered", "--compress", "none"}, "none"},
                                         WayCase{"Small_Clusters", {"--cluster-size", "4K"}, "zstd"},
                                         WayCase{"Large_Clusters", {"--cluster-size=2M", "--compress", "none"}, "none"},
                                         WayCase{"Speed_Limit", {"--speed-limit", "1G"}, "zstd"}),
                         [](const auto& param) { return param.param.name; });

class OutputTest : public OneDiskTest {};

TEST_F(OutputTest, Cluster_Size_And_Compression_Are_What_Was_Asked_For) {
  chain().take(-1, {"--cluster-size", "128K", "--compress", "zlib"});
  chain().take(0);
  const auto info = [&](int level) {
    return json::parse(run_checked({"qemu-img", "info", "--output=json", chain().file(level)}));
  };
  EXPECT_EQ(info(-1)["cluster-size"], 128 * KiB);
  EXPECT_EQ(info(-1)["format-specific"]["data"]["compression-type"], "zlib");
  EXPECT_EQ(info(0)["cluster-size"], 64 * KiB);
  EXPECT_EQ(info(0)["format-specific"]["data"]["compression-type"], "zstd");
  EXPECT_EQ(info(0)["backing-filename"], "disk0.full.qcow2") << "by name alone, so that the folder can be moved";
}

TEST_F(OutputTest, Limited_Run_Takes_Its_Time) {
  const auto limited = chain().take(-1, {"--speed-limit", "4M"});
  EXPECT_GE(limited.seconds, 1.0);
  chain().expect_sound(-1);
}

TEST_F(OutputTest, Checksums_Are_Those_Of_The_Files) {
  const auto full = summary_of(chain().take(-1, {"--json"}))["disks"][0];
  chain().take(0);
  chain().take(1, {"--no-checksum"});
  chain().take(2);
  const auto check = run_program({"sha256sum", "--strict", "-c", "disk0.sha256"}, {.working_folder = backups()});
  EXPECT_EQ(check.exit_code, 0) << check.err;
  EXPECT_EQ(check.out, "disk0.full.qcow2: OK\ndisk0.inc0.qcow2: OK\ndisk0.inc2.qcow2: OK\n");
  const auto own = run_checked({"sha256sum", chain().file(-1)});
  EXPECT_EQ(full["sha256"], own.substr(0, own.find(' ')));
  EXPECT_TRUE(chain().manifest()["levels"][2].value("sha256", json()).is_null());
  chain().expect_sound(2);
}

TEST_F(OutputTest, Json_Summary_Has_The_Documented_Keys) {
  const auto keys = [](const json& object) {
    std::vector<std::string> names;
    for (const auto& [key, value] : object.items()) {
      names.push_back(key);
    }
    return names;
  };
  chain().take(-1);
  vm().write("disk0", 0, 64 * KiB, 0x71);
  const auto run = chain().take(0, {"--json", "--no-checksum"});
  EXPECT_EQ(run.err, "");
  const auto lines = json_lines(run.out);
  for (const auto& line : lines) {
    if (line != lines.back()) {
      EXPECT_EQ(line["message_type"], "status");
      EXPECT_EQ(line["device"], "disk0");
      EXPECT_TRUE(line["bytes_done"].is_number_unsigned() && line["bytes_total"].is_number_unsigned() &&
                  line["bytes_per_second"].is_number())
          << line;
    }
  }
  const auto summary = summary_of(run);
  EXPECT_EQ(keys(summary), (std::vector<std::string>{"command", "disks", "message_type", "qemu", "vm", "warnings"}));
  EXPECT_EQ(summary["command"], "backup");
  EXPECT_EQ(summary["vm"], "web1");
  EXPECT_TRUE(std::regex_search(summary["qemu"].get<std::string>(), std::regex(R"(^\d+\.\d+\.\d+)")));
  EXPECT_EQ(summary["warnings"], json::array());
  ASSERT_EQ(summary["disks"].size(), 1U);
  const auto disk = summary["disks"][0];
  EXPECT_EQ(keys(disk), (std::vector<std::string>{"bitmap", "bytes_copied", "device", "file", "file_size", "level",
                                                  "reason", "seconds", "sha256", "sync", "virtual_size"}));
  EXPECT_EQ(disk["device"], "disk0");
  EXPECT_EQ(disk["level"], 0);
  EXPECT_EQ(disk["file"], chain().file(0).string());
  EXPECT_EQ(disk["sync"], "bitmap");
  EXPECT_EQ(disk["bitmap"], chain().bitmap(0));
  EXPECT_EQ(disk["virtual_size"], disk_size);
  EXPECT_TRUE(disk["bytes_copied"].is_number_unsigned());
  EXPECT_EQ(disk["file_size"], fs::file_size(chain().file(0)));
  EXPECT_TRUE(disk["seconds"].is_number_float());
  EXPECT_TRUE(disk["sha256"].is_null());
  EXPECT_TRUE(disk["reason"].is_null());
}

TEST_F(OutputTest, Last_Line_Says_What_Was_Made) {
  const auto full = chain().take(-1);
  EXPECT_EQ(full.err, "");
  EXPECT_TRUE(std::regex_match(full.out, std::regex(R"(disk0: full -> \S+/disk0\.full\.qcow2  8\.0 MiB disk, )"
                                                    R"([0-9.]+ [KM]iB written, [0-9.]+ s\n)")))
      << full.out;
  vm().write("disk0", 0, 512 * KiB, 0x72);
  const auto incremental = chain().take(0);
  EXPECT_TRUE(
      std::regex_match(incremental.out, std::regex(R"(disk0: inc0 -> \S+/disk0\.inc0\.qcow2  [0-9.]+ [KM]iB copied, )"
                                                   R"([0-9.]+ [KM]iB written, [0-9.]+ s\n)")))
      << incremental.out;
  EXPECT_EQ(chain().take(1, {"--quiet"}).out, "");
}

TEST_F(OutputTest, Auto_Makes_A_Full_And_Then_The_Next_Level) {
  for (int level = -1; level < 3; ++level) {
    vm().write("disk0", static_cast<std::uint64_t>(level + 1) * MiB, 200 * KiB, 0x73);
    const auto disk = summary_of(chain().take_auto(level, {"--json"}))["disks"][0];
    EXPECT_EQ(disk["level"], level);
    EXPECT_TRUE(disk["reason"].is_null()) << "nothing was wrong";
  }
  chain().expect_sound(2);
}

TEST_F(OutputTest, Writes_During_A_Run_Belong_To_The_Next_Level) {
  for (int level = -1; level < 2; ++level) {
    vm().write("disk0", 0, 4 * MiB, static_cast<std::uint8_t>(0x74 + level));
    chain().remember(level);
    auto run = start_slow_run({"-inc", std::to_string(level)});
    vm().write("disk0", 2 * MiB, 4 * MiB, static_cast<std::uint8_t>(0x84 + level));  // partly not copied yet
    vm().discard("disk0", 3 * MiB, MiB);
    unlimit_backup_job();
    EXPECT_EQ(run.wait().exit_code, 0) << run.err();
  }
  chain().take(2);
  chain().expect_sound(2);
}

TEST_F(OutputTest, Level_Is_Checked_Before_It_Is_Committed) {
  chain().take(-1);
  EXPECT_EQ(chain().manifest().at("levels")[0].at("checked"), true);
  fs::create_directory(folder_ / "bin");
  write_file(folder_ / "bin/qemu-img",
             "#!/bin/sh\ncase $1 in check) echo 'ERROR refcount block' >&2; exit 2;; esac\nPATH=${PATH#*:}\n"
             "exec qemu-img \"$@\"\n");
  fs::permissions(folder_ / "bin/qemu-img", fs::perms{0755});
  const auto run =
      chain().run({"-inc", "0"}, {.environment = {{"PATH", (folder_ / "bin").string() + ":" + std::getenv("PATH")}}});
  EXPECT_EQ(run.exit_code, 1) << run.out;
  EXPECT_TRUE(contains(run.err, "refcount block")) << run.err;
  chain().expect_sound(-1);
}

TEST_F(OutputTest, Dry_Run_Changes_Nothing) {
  chain().take(-1);
  const auto before = files_like(backups(), "");
  const auto run = chain().run({"-inc", "0", "--dry-run"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(contains(run.out, "\"blockdev-backup\"")) << run.out;
  EXPECT_EQ(files_like(backups(), ""), before);
  chain().expect_sound(-1);
}

}  // namespace
}  // namespace qmpbackup::test
