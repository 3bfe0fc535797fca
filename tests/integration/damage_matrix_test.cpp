// Every kind of damage to a level in the middle of a chain: verify finds it, restore refuses it, and both name the
// right newest good level, which then restores bit for bit. The one exception is damage that the means at hand cannot
// show: without a manifest nobody knows how long a file was, without a checksum nobody knows what its data was.
#include <map>

#include "integration/scenario.hpp"
#include "support/damage.hpp"

namespace qmpbackup::test {

namespace {

enum class Means { Everything, NoChecksums, ChecksumsAlone, FilesAlone };

const char* name_of(Means means) {
  switch (means) {
    case Means::Everything:
      return "manifest and checksums";
    case Means::NoChecksums:
      return "manifest without checksums";
    case Means::ChecksumsAlone:
      return "checksums without manifest";
    case Means::FilesAlone:
      return "files alone";
  }
  return "";
}

bool is_seen(SeenBy seen_by, Means means) {
  switch (seen_by) {
    case SeenBy::File:
      return true;
    case SeenBy::Manifest:
      return means != Means::FilesAlone;
    case SeenBy::Checksum:
      return means == Means::Everything || means == Means::ChecksumsAlone;
    case SeenBy::Nobody:
      return false;
  }
  return false;
}

class DamageMatrix : public IntegrationTest, public testing::WithParamInterface<std::string> {
 protected:
  static constexpr std::uint64_t disk_size = 2 * MiB;
  static constexpr int newest = 2;
  static constexpr int damaged = 1;

  void SetUp() override {
    IntegrationTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) {
      return;
    }
    write_file(folder_ / "disk.raw", content_of_a_disk());
    run_checked({"qemu-img", "convert", "-O", "qcow2", folder_ / "disk.raw", folder_ / "disk0.qcow2"});
    QemuVm vm(folder_, {{.id = "disk0", .image = folder_ / "disk0.qcow2"}});
    vm.start();
    for (int level = -1; level <= newest; ++level) {
      if (level >= 0) {
        const auto offset = static_cast<std::uint64_t>(level) * 300 * KiB;
        vm.write("disk0", offset, 130 * KiB, static_cast<std::uint8_t>(0x20 + level));
      }
      vm.flush("disk0");
      contents_[level] = read_file(vm.disk_content("disk0"));
      take(vm, "sums", level, {});
      if (wants_plain_chain()) {
        take(vm, "plain", level, {"--no-checksum"});
      }
    }
  }

  virtual bool wants_plain_chain() const { return true; }

  void take(QemuVm& vm, const std::string& chain, int level, const Arguments& more) const {
    fs::create_directories(folder_ / chain);
    run_checked(backup_command(
        vm.socket(), folder_ / chain / "d", "disk0",
        Arguments{"-inc", std::to_string(level), "--compress", GetParam(), "--cluster-size", "64K"} + more));
  }

  // Compressible, and no two clusters are alike.
  static std::string content_of_a_disk() {
    std::string bytes;
    for (std::uint64_t i = 0; bytes.size() < disk_size; ++i) {
      bytes += fmt::format("{:x} ", i * 0x9e3779b97f4a7c15ULL);
    }
    bytes.resize(disk_size);
    return bytes;
  }

  // A copy of the chain, with what is at hand.
  void lay_out(Means means) {
    fs::remove_all(chain());
    fs::copy(folder_ / (means == Means::NoChecksums ? "plain" : "sums"), chain(), fs::copy_options::recursive);
    if (means == Means::ChecksumsAlone || means == Means::FilesAlone) {
      fs::remove(base() + ".chain.json");
    }
    if (means == Means::FilesAlone) {
      fs::remove(base() + ".sha256");
    }
  }

  fs::path chain() const { return folder_ / "chain"; }
  std::string base() const { return chain() / "d"; }
  fs::path level_path(int level) const { return base() + "." + level_name(level) + ".qcow2"; }

  ProgramResult run_on_chain(const std::string& command, const Arguments& more) const {
    const ProgramResult result =
        run_program(tool(command, "-backupFile", base()) + more, {.timeout = std::chrono::seconds(60)});
    EXPECT_EQ(result.signal, 0) << command;
    EXPECT_FALSE(result.timed_out) << command;
    return result;
  }

  // Either the content of that level, or nothing and a reason.
  bool restores(const Arguments& which, int level) {
    const fs::path output = folder_ / "restored.raw";
    const ProgramResult result =
        run_on_chain("restore", which + Arguments{"--output", output.string(), "--format", "raw"});
    EXPECT_EQ(result.exit_code == 0, fs::exists(output)) << result.err;
    EXPECT_FALSE(fs::exists(output.string() + ".partial"));
    const bool right = result.exit_code == 0 && read_file(output) == contents_.at(level);
    last_error_ = result.err;
    fs::remove(output);
    EXPECT_TRUE(right || result.exit_code == 1) << "other bytes than the level had; " << result.err;
    return right;
  }

  // The chain is damaged from `damaged` on.
  void expect_found() {
    const ProgramResult verified = run_on_chain("verify", {"--json"});
    EXPECT_EQ(verified.exit_code, 6) << verified.out << verified.err;
    json found;
    for (const json& line : json_lines(verified.out)) {
      if (line.at("message_type") == "damage") {
        found = line;
      }
    }
    ASSERT_TRUE(found.is_object()) << verified.out;
    EXPECT_EQ(found.at("newest_good"), damaged - 1) << verified.out;
    EXPECT_FALSE(restores({}, newest));
    EXPECT_TRUE(contains(last_error_, "the newest level that is good: " + level_name(damaged - 1))) << last_error_;
    EXPECT_TRUE(restores({"-inc", std::to_string(damaged - 1)}, damaged - 1)) << last_error_;
  }

  // The content is what it was, and nothing is wrong with the chain.
  void expect_sound() {
    const ProgramResult verified = run_on_chain("verify", {"--json"});
    EXPECT_EQ(verified.exit_code, 0) << verified.out << verified.err;
    EXPECT_TRUE(restores({}, newest)) << last_error_;
  }

  // Nobody can know; but nothing may crash.
  void expect_no_crash() const {
    for (const char* depth : {"--json", "--deep"}) {
      const int code = run_on_chain("verify", {depth}).exit_code;
      EXPECT_TRUE(code == 0 || code == 6) << code;
    }
    run_on_chain("list", {});
  }

  void judge(const Damage& damage, Means means) {
    SCOPED_TRACE(fmt::format("{}: {}", name_of(means), damage.name));
    lay_out(means);
    damage.apply(level_path(damaged));
    if (is_seen(damage.seen_by, means)) {
      expect_found();
    } else if (damage.seen_by == SeenBy::Nobody) {
      expect_sound();
    } else {
      expect_no_crash();
    }
  }

  std::map<int, std::string> contents_;
  std::string last_error_;
};

class CompressedDamage : public DamageMatrix {};

constexpr Means kAllMeans[] = {Means::Everything, Means::NoChecksums, Means::ChecksumsAlone, Means::FilesAlone};

TEST_P(DamageMatrix, Sound_Chain_Passes_And_Damaged_Bytes_Are_Found_And_Refused) {
  for (const Means means : kAllMeans) {
    SCOPED_TRACE(name_of(means));
    lay_out(means);
    expect_sound();
  }
  for (const Damage& damage : byte_damages()) {
    for (const Means means : kAllMeans) {
      if (GetParam() == "zstd" || means == Means::NoChecksums) {
        judge(damage, means);
      }
    }
  }
}

TEST_P(CompressedDamage, Clusters_That_Cannot_Be_Decompressed_Are_Found_By_A_Deep_Look_Without_Checksums) {
  lay_out(Means::NoChecksums);
  EXPECT_EQ(run_on_chain("verify", {"--deep"}).exit_code, 0);
  const Qcow2Layout layout(level_path(0));
  for (std::uint64_t i = 0; i < 16; ++i) {
    flip_byte(level_path(0), layout.data + i);
  }
  const ProgramResult deep = run_on_chain("verify", {"--deep"});
  EXPECT_EQ(deep.exit_code, 6) << deep.out;
  EXPECT_TRUE(contains(deep.err, "the newest level that restores is full")) << deep.err << deep.out;
  EXPECT_FALSE(restores({"-inc", "0"}, 0));  // a level above may hold that cluster, too
  EXPECT_TRUE(contains(last_error_, "that is good: full")) << last_error_;
}

INSTANTIATE_TEST_SUITE_P(Each, DamageMatrix, testing::Values("zstd", "zlib", "none"),
                         [](const auto& at) { return at.param; });

INSTANTIATE_TEST_SUITE_P(Each, CompressedDamage, testing::Values("zstd", "zlib"),
                         [](const auto& at) { return at.param; });

class FileDamage : public DamageMatrix {
  bool wants_plain_chain() const override { return false; }
};

TEST_P(FileDamage, Damaged_Full_And_Newest_Level_Are_Told_Apart) {
  lay_out(Means::Everything);
  flip_byte(level_path(-1), 0);
  EXPECT_EQ(run_on_chain("verify", {}).exit_code, 6);
  EXPECT_FALSE(restores({}, newest));
  EXPECT_TRUE(contains(last_error_, "no level of this chain can be restored")) << last_error_;

  lay_out(Means::Everything);
  fs::remove(level_path(newest));
  EXPECT_EQ(run_on_chain("verify", {}).exit_code, 6);
  EXPECT_FALSE(restores({}, newest));
  EXPECT_TRUE(contains(last_error_, "that is good: inc1")) << last_error_;
  EXPECT_TRUE(restores({"-inc", "1"}, 1));
}

TEST_P(FileDamage, To_Names_Links_And_Places_Is_Found_And_Refused) {
  for (const Damage& damage : file_damages()) {
    for (const Means means : {Means::Everything, Means::FilesAlone}) {
      judge(damage, means);
    }
  }
}

TEST_P(FileDamage, Writable_Files_And_Links_Are_Said) {
  lay_out(Means::Everything);
  fs::permissions(level_path(0), static_cast<fs::perms>(0660));
  fs::rename(level_path(1), folder_ / "elsewhere");
  fs::create_symlink(folder_ / "elsewhere", level_path(1));
  const ProgramResult verified = run_on_chain("verify", {});
  EXPECT_EQ(verified.exit_code, 0) << verified.err;
  EXPECT_TRUE(contains(verified.err, "d.inc0.qcow2 can be written by others")) << verified.err;
  EXPECT_TRUE(contains(verified.err, "d.inc1.qcow2 is a link")) << verified.err;
}

TEST_P(FileDamage, Level_Of_Another_Chain_Is_Found_By_Its_Checksum) {
  lay_out(Means::Everything);
  // Of the same size, and with the right link: what another chain of the same name and disk would have there.
  fs::copy_file(level_path(newest), level_path(damaged), fs::copy_options::overwrite_existing);
  run_checked({"qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "d.inc0.qcow2", level_path(damaged)});
  expect_found();
}

TEST_P(FileDamage, Cut_Or_Flipped_Manifest_Is_Damage_And_The_Levels_Still_Restore) {
  lay_out(Means::Everything);
  const std::string manifest = read_file(base() + ".chain.json");
  std::vector<std::string> texts;
  for (std::size_t i = 0; i + 1 < manifest.size(); i += manifest.size() / 7) {  // without its last newline it is whole
    texts.push_back(manifest.substr(0, i));
    texts.push_back(manifest);
    texts.back()[i] = static_cast<char>(texts.back()[i] ^ 4);
  }
  for (const std::string& text : texts) {
    write_file(base() + ".chain.json", text);
    EXPECT_EQ(run_on_chain("verify", {}).exit_code, 6) << text;
    EXPECT_EQ(run_on_chain("list", {}).exit_code, 0) << text;
  }
  EXPECT_TRUE(restores({}, newest)) << last_error_;
  flip_byte(level_path(damaged), Qcow2Layout(level_path(damaged)).data + 20);
  EXPECT_FALSE(restores({}, newest)) << "BASE.sha256 still has the checksums";
}

TEST_P(FileDamage, Times_Of_Files_Out_Of_Order_Choose_No_Level) {
  lay_out(Means::FilesAlone);
  fs::last_write_time(level_path(-1), fs::file_time_type::clock::now() + std::chrono::hours(1));
  EXPECT_FALSE(restores({"--at", "2100-01-01"}, newest));
  EXPECT_TRUE(contains(last_error_, "-inc")) << last_error_;
}

INSTANTIATE_TEST_SUITE_P(Each, FileDamage, testing::Values("zstd"), [](const auto& at) { return at.param; });

}  // namespace

}  // namespace qmpbackup::test
