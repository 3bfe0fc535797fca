// BASE.chain.json: what is written is read back, and nothing else is believed.
#include "qmpbackup/manifest.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>

namespace qmpbackup {
namespace {

using nlohmann::json;

LevelRecord record(int number) {
  LevelRecord made;
  made.level = Level{number};
  made.file = "drive0." + level_name(made.level) + ".qcow2";
  made.time = "2026-11-22T02:00:00Z";
  made.virtual_size = kMiB + 512;
  made.bytes_copied = 2 * kMiB;
  made.file_size = 458752;
  made.compression = "zstd";
  made.bitmap = {"qmpbackup-0b3c6f52-1d2e-4f60-8a9b-0123456789ab-" + level_name(made.level)};
  made.marks = 5;
  made.qemu = "7.2.22";
  made.sha256 = std::string(64, 'a');
  return made;
}

Manifest manifest_of(int incrementals) {
  Manifest made{.chain = *ChainId::parse("0b3c6f52-1d2e-4f60-8a9b-0123456789ab"),
                .vm = {"web1", "12345678-1234-1234-1234-123456789abc"},
                .device = "Füße \"1\"",
                .replaces = {},
                .levels = {},
                .pending = {},
                .other = json::object()};
  for (int number = -1; number < incrementals; ++number) {
    made.levels.push_back(record(number));
  }
  return made;
}

LevelRecord checked(LevelRecord made) {
  made.checked = true;
  return made;
}

Pending pending_of(const Manifest& manifest) {
  return {.chain = manifest.chain,
          .level = Level{1},
          .job = level_job(manifest.chain, Level{1}),
          .node = target_node(manifest.chain),
          .bitmap = level_bitmap(manifest.chain, Level{1}),
          .partial = "drive0.inc1.qcow2.partial",
          .started = "2026-11-23T02:00:00Z",
          .device = "drive0",
          .vm = manifest.vm,
          .marks = 5,
          .compression = "none",
          .virtual_size = kMiB + 512,
          .cluster_size = 64 * kKiB,
          .adopts = true,
          .was_running = true,
          .reason = "because",
          .archive = "20261122T020000Z",
          .verified = checked(record(1))};
}

json as_json(const Manifest& manifest) {
  return json::parse(format_manifest(manifest));
}

// The outcomes a reader may have; anything else (another exception, a crash) fails the test.
enum class Outcome { Parsed, Damaged, TooNew };

Outcome parse_outcome(const std::string& text, std::optional<Manifest>& parsed) {
  try {
    parsed = parse_manifest(text);
    return Outcome::Parsed;
  } catch (const ManifestDamaged&) {
    return Outcome::Damaged;
  } catch (const ManifestTooNew&) {
    return Outcome::TooNew;
  }
}

TEST(Manifest, Round_Trip_Keeps_Every_Field) {
  Manifest manifest = manifest_of(2);
  manifest.replaces = {*ChainId::parse("99999999-1d2e-4f60-8a9b-0123456789ab")};
  manifest.levels[1].sha256.reset();
  manifest.levels[1].marks = 0;
  manifest.levels[2].marks_seed = 77, manifest.levels[2].checked = true;
  manifest.stored_attempts = 3;
  manifest.levels[2].granularity = 128 * kKiB;
  manifest.pending = pending_of(manifest);
  const std::string text = format_manifest(manifest);
  const Manifest again = parse_manifest(text);
  EXPECT_EQ(format_manifest(again), text);
  EXPECT_TRUE(again.levels[2].marks_seed == 77 && again.stored_attempts == 3);
  EXPECT_EQ(again.levels[2].granularity, 128 * kKiB);
  EXPECT_EQ(again.chain, manifest.chain);
  EXPECT_EQ(again.replaces, manifest.replaces);
  EXPECT_EQ(again.vm.name, "web1");
  EXPECT_EQ(again.device, manifest.device);
  ASSERT_EQ(again.levels.size(), 3U);
  const LevelRecord& level = again.levels[2];
  EXPECT_EQ(level.level, Level{1});
  EXPECT_EQ(level.file, "drive0.inc1.qcow2");
  EXPECT_EQ(level.time, "2026-11-22T02:00:00Z");
  EXPECT_EQ(level.virtual_size, kMiB + 512);
  EXPECT_EQ(level.bytes_copied, 2 * kMiB);
  EXPECT_EQ(level.file_size, 458752U);
  EXPECT_EQ(level.compression, "zstd");
  EXPECT_EQ(level.bitmap, manifest.levels[2].bitmap);
  EXPECT_EQ(level.marks, 5U);
  EXPECT_EQ(level.qemu, "7.2.22");
  EXPECT_EQ(level.sha256, std::string(64, 'a'));
  EXPECT_TRUE(!again.levels[1].sha256 && again.levels[1].marks == 0);
  EXPECT_TRUE(level.checked);
  EXPECT_FALSE(again.levels[1].checked);
  EXPECT_EQ(again.last()->level, Level{1});
}

TEST(Manifest, Says_That_A_Level_Was_Checked_Only_Where_It_Was) {
  Manifest manifest = manifest_of(1);
  const json without = as_json(manifest);
  EXPECT_FALSE(without.at("levels")[1].contains("checked"));
  EXPECT_EQ(format_manifest(parse_manifest(without.dump())), format_manifest(manifest));
  manifest.levels[1].checked = true;
  EXPECT_NE(as_json(manifest).at("checksum"), without.at("checksum")) << "a flipped bit must not take the claim away";
}

TEST(Manifest, Of_The_First_Kind_Is_Read_And_Its_Marks_Are_Not_Looked_For) {
  Manifest manifest = manifest_of(1);
  for (LevelRecord& level : manifest.levels) {
    level.marks = 0;
    level.marked = true;
  }
  const json document = as_json(manifest);
  EXPECT_EQ(document.at("levels")[1].at("marked"), true);
  EXPECT_FALSE(document.at("levels")[1].contains("marks"));
  const Manifest again = parse_manifest(document.dump());
  EXPECT_EQ(again.levels[1].marks, 0U);
  EXPECT_EQ(format_manifest(again), format_manifest(manifest));
}

TEST(Manifest, Round_Trip_Keeps_The_Intent_Of_A_Run) {
  Manifest manifest = manifest_of(1);
  manifest.pending = pending_of(manifest);
  const Pending again = *parse_manifest(format_manifest(manifest)).pending;
  EXPECT_EQ(again.chain, manifest.chain);
  EXPECT_EQ(again.level, Level{1});
  EXPECT_EQ(again.job, manifest.pending->job);
  EXPECT_EQ(again.node, manifest.pending->node);
  EXPECT_EQ(again.bitmap, manifest.pending->bitmap);
  EXPECT_EQ(again.partial, "drive0.inc1.qcow2.partial");
  EXPECT_EQ(again.started, "2026-11-23T02:00:00Z");
  EXPECT_EQ(again.device, "drive0");
  EXPECT_EQ(again.vm.uuid, manifest.vm.uuid);
  EXPECT_EQ(again.marks, 5U);
  EXPECT_TRUE(again.adopts && again.was_running);
  EXPECT_EQ(again.compression, "none");
  EXPECT_EQ(again.virtual_size, kMiB + 512);
  EXPECT_EQ(again.cluster_size, 64 * kKiB);
  EXPECT_EQ(again.reason, "because");
  EXPECT_EQ(again.archive, "20261122T020000Z");
  ASSERT_TRUE(again.verified);
  EXPECT_EQ(again.verified->file, "drive0.inc1.qcow2");
  EXPECT_TRUE(again.verified->checked) << "a commit after a kill";
}

TEST(Manifest, Text_Is_Readable_And_Ends_In_A_Newline) {
  const std::string text = format_manifest(manifest_of(0));
  EXPECT_TRUE(text.ends_with("}\n"));
  EXPECT_NE(text.find("\n  \"device\""), std::string::npos);
  EXPECT_EQ(as_json(manifest_of(0)).at("format"), 1);
}

TEST(Manifest, Unknown_Fields_Survive_At_The_Top_And_In_Levels) {
  json document = as_json(manifest_of(1));
  document["later"] = {{"nested", {1, 2}}};
  document["levels"][0]["note"] = "kept";
  Manifest manifest = parse_manifest(document.dump());
  manifest.levels.push_back(record(1));
  const json rewritten = as_json(manifest);
  EXPECT_EQ(rewritten.at("later"), document.at("later"));
  EXPECT_EQ(rewritten.at("levels")[0].at("note"), "kept");
  EXPECT_EQ(rewritten.at("levels").size(), 3U);
  EXPECT_NO_THROW(parse_manifest(rewritten.dump()));
}

TEST(Manifest, Unknown_Fields_Never_Replace_Known_Ones) {
  LevelRecord level = record(0);
  level.other = {{"file", "evil"}, {"extra", 1}};
  EXPECT_EQ(to_json(level).at("file"), "drive0.inc0.qcow2");
  EXPECT_EQ(to_json(level).at("extra"), 1);
}

TEST(Manifest, A_Newer_Format_Is_Refused_By_Its_Number) {
  json document = as_json(manifest_of(0));
  document["format"] = 2;
  try {
    parse_manifest(document.dump());
    FAIL();
  } catch (const ManifestTooNew& error) {
    EXPECT_NE(std::string(error.what()).find('2'), std::string::npos);
    EXPECT_FALSE(error.hint().empty());
  }
  EXPECT_THROW(parse_manifest(R"({"format": 3, "all": "different"})"), ManifestTooNew);
  EXPECT_THROW(parse_manifest(R"({"format": 18446744073709551615})"), ManifestTooNew);
  for (const char* format : {"0", "-1", "null", "\"1\"", "1.5", "true"}) {
    EXPECT_THROW(parse_manifest(std::string(R"({"format": )") + format + "}"), ManifestDamaged) << format;
  }
}

// Its checksum anybody can make: what it names is removed, renamed and moved.
TEST(Manifest, Whose_Names_Are_Those_Of_Something_Else_Is_Damaged) {
  const auto harmed = [](const std::function<void(Manifest&)>& harm) {
    Manifest manifest = manifest_of(1);
    manifest.pending = pending_of(manifest);
    harm(manifest);
    return format_manifest(manifest);
  };
  EXPECT_NO_THROW(parse_manifest(harmed([](Manifest& m) { m.levels[0].bitmap = kForeignBitmap; }))) << "adopted";
  const ChainId other = *ChainId::parse("99999999-1d2e-4f60-8a9b-0123456789ab");
  const std::vector<std::function<void(Manifest&)>> harms{
      [](Manifest& m) { m.levels[0].bitmap = {"foreign"}; },
      [&](Manifest& m) { m.levels[1].bitmap = level_bitmap(other, Level{0}); },
      [](Manifest& m) { m.levels[0].time = "x/../../out"; },
      [](Manifest& m) { m.levels[0].time = ""; },
      [](Manifest& m) { m.levels[1].time = "+10000-01-01T00:00:00Z"; },
      [](Manifest& m) { m.pending_merge = PendingMerge{Level{1'000'000}}; },
      [](Manifest& m) { m.merged = Level{0}, m.pending_merge = PendingMerge{Level{7}}; },
      [](Manifest& m) { m.merged = Level{0}, m.levels.clear(), m.pending_merge = PendingMerge{Level{0}}; },
      [](Manifest& m) { m.pending->job = {"backup0"}; },
      [](Manifest& m) { m.pending->node = {"drive0"}; },
      [&](Manifest& m) { m.pending->bitmap = level_bitmap(other, Level{1}); },
      [&](Manifest& m) { m.pending->chain = other; },
      [](Manifest& m) { m.pending->verified->level = Level{0}; },
      [](Manifest& m) { m.pending->verified->time = "now"; },
  };
  for (std::size_t i = 0; i < harms.size(); ++i) {
    EXPECT_THROW(parse_manifest(harmed(harms[i])), ManifestDamaged) << i;
  }
}

TEST(Manifest, Still_Tells_Its_Chain_When_It_Is_Damaged) {
  const Manifest manifest = manifest_of(1);
  const std::string text = format_manifest(manifest);
  EXPECT_EQ(find_chain_id(text), manifest.chain);
  EXPECT_EQ(find_chain_id(text.substr(0, text.size() / 2)), manifest.chain);
  for (const char* none : {"", "{", R"({"chain")", R"({"chain": ")", R"({"chain": "no-uuid"})", R"({"chain": 7})"}) {
    EXPECT_EQ(find_chain_id(none), std::nullopt) << none;
  }
}

TEST(Manifest, Cut_At_Any_Length_Is_Damaged) {
  Manifest manifest = manifest_of(1);
  manifest.pending = pending_of(manifest);
  const std::string text = format_manifest(manifest);
  for (std::size_t length = 0; length + 1 < text.size(); ++length) {  // without its last newline it is whole
    std::optional<Manifest> parsed;
    EXPECT_EQ(parse_outcome(text.substr(0, length), parsed), Outcome::Damaged) << length;
  }
}

TEST(Manifest, With_Any_Bit_Flipped_Is_Refused_Or_Says_The_Same) {
  const std::string text = format_manifest(manifest_of(1));
  for (std::size_t at = 0; at < text.size(); ++at) {
    for (const unsigned bit : {0U, 1U, 2U, 4U, 5U, 6U, 7U}) {
      std::string flipped = text;
      flipped[at] = static_cast<char>(static_cast<unsigned char>(text[at]) ^ (1U << bit));
      std::optional<Manifest> parsed;
      if (parse_outcome(flipped, parsed) == Outcome::Parsed) {
        parsed->other = json::object();  // a key that is no longer known is passed on
        for (LevelRecord& level : parsed->levels) {
          level.other = json::object();
        }
        ASSERT_EQ(format_manifest(*parsed), text) << "byte " << at << " bit " << bit;
      }
    }
  }
}

TEST(Manifest, Levels_Must_Follow_Each_Other_From_The_Full_On) {
  for (const std::vector<int>& numbers :
       {std::vector{0}, std::vector{-1, 1}, std::vector{-1, 0, 0}, std::vector{0, -1}, std::vector{-1, -1}}) {
    Manifest manifest = manifest_of(-1);
    manifest.levels.clear();
    for (const int number : numbers) {
      manifest.levels.push_back(record(number));
    }
    EXPECT_THROW(parse_manifest(format_manifest(manifest)), ManifestDamaged) << testing::PrintToString(numbers);
  }
}

TEST(Manifest, After_A_Merge_The_Levels_Follow_The_Merged_One) {
  Manifest manifest = manifest_of(0);
  manifest.merged = Level{3};
  EXPECT_EQ(manifest.next_level(), Level{4}) << "the full holds all up to inc3";
  manifest.levels.push_back(record(4));
  manifest.levels.push_back(record(5));
  manifest.pending_merge = PendingMerge{Level{3}};
  const Manifest again = parse_manifest(format_manifest(manifest));
  EXPECT_EQ(again.merged, Level{3});
  ASSERT_TRUE(again.pending_merge);
  EXPECT_EQ(again.pending_merge->through, Level{3});
  EXPECT_EQ(again.next_level(), Level{6});
  EXPECT_EQ(level_below(again.levels, Level{4}), kFullLevel);
  EXPECT_EQ(level_below(again.levels, Level{5}), Level{4});
  EXPECT_FALSE(level_below(again.levels, kFullLevel));
  EXPECT_FALSE(level_below(again.levels, Level{3}));
  for (const int wrong : {0, 3, 5}) {
    Manifest gap = manifest;
    gap.levels[1] = record(wrong);
    EXPECT_THROW(parse_manifest(format_manifest(gap)), ManifestDamaged) << wrong;
  }
}

TEST(Manifest, File_Names_Must_Stay_In_Their_Folder) {
  for (const std::string& name : {std::string(), std::string(".."), std::string("/etc/passwd"),
                                  std::string("../drive0.full.qcow2"), std::string("a/b"), std::string("a\0b", 3)}) {
    const auto refused = [&](const std::function<void(Manifest&)>& change) {
      Manifest manifest = manifest_of(0);
      manifest.pending = pending_of(manifest);
      change(manifest);
      std::optional<Manifest> parsed;
      return parse_outcome(format_manifest(manifest), parsed) == Outcome::Damaged;
    };
    EXPECT_TRUE(refused([&](Manifest& m) { m.levels[0].file = name; })) << name;
    EXPECT_TRUE(refused([&](Manifest& m) { m.pending->partial = name; })) << name;
    EXPECT_TRUE(refused([&](Manifest& m) { m.pending->archive = name; })) << name;
    EXPECT_TRUE(refused([&](Manifest& m) { m.pending->verified->file = name; })) << name;
  }
}

TEST(Manifest, Fields_Of_Another_Type_Or_Missing_Are_Damage) {
  Manifest manifest = manifest_of(0);
  manifest.replaces = {manifest.chain};
  manifest.pending = pending_of(manifest);
  manifest.pending->verified->checked = false;  // the one field that may be missing
  json document = as_json(manifest);
  document["pending"].erase("inode");  // this one as well
  const json odd[] = {nullptr, true, 7, -7, 1.5, "text", json::array(), json::object(), json::array({document})};
  const json flat = document.flatten();
  for (const auto& [pointer, value] : flat.items()) {
    ASSERT_FALSE(value.is_null()) << pointer;
    json without = document;
    const json::json_pointer at(pointer);
    without.at(at.parent_pointer()).erase(at.back());
    std::optional<Manifest> parsed;
    EXPECT_EQ(parse_outcome(without.dump(), parsed), Outcome::Damaged) << "without " << pointer;
    for (const json& other : odd) {
      json changed = document;
      changed[at] = other;
      if (changed != document) {
        EXPECT_NE(parse_outcome(changed.dump(), parsed), Outcome::Parsed) << pointer << " = " << other.dump();
      }
    }
  }
}

TEST(Manifest, Numbers_Beyond_Their_Range_Are_Damage) {
  for (const char* level : {"-2", "1000001", "4294967295", "18446744073709551615", "-9223372036854775808", "1e3"}) {
    json document = as_json(manifest_of(0));
    document["levels"][0]["level"] = json::parse(level);
    EXPECT_THROW(parse_manifest(document.dump()), ManifestDamaged) << level;
  }
}

TEST(Manifest, Hostile_Text_Is_Damage) {
  for (const std::string& text :
       {std::string(), std::string("\0\0\0\0", 4), std::string("null"), std::string("[]"), std::string("\"x\""),
        std::string("{}"), std::string("\xff\xfe{}"), std::string(4096, '\0'), "\xef\xbb\xbf" + std::string("{}"),
        format_manifest(manifest_of(0)) + "x", format_manifest(manifest_of(0)) + format_manifest(manifest_of(0))}) {
    std::optional<Manifest> parsed;
    EXPECT_EQ(parse_outcome(text, parsed), Outcome::Damaged) << text.substr(0, 20);
  }
}

TEST(ManifestDeathTest, Deep_Nesting_Does_Not_Crash) {
  // Read in a process of its own: a stack that overflows must not take the other tests with it.
  const auto read = [](const std::string& text) {
    try {
      const Manifest copy = parse_manifest(text);
      (void)format_manifest(copy);
    } catch (const ChainError&) {
    }
    std::_Exit(0);
  };
  const std::string deep = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  EXPECT_EXIT(read(deep), testing::ExitedWithCode(0), "");
  std::string text = format_manifest(manifest_of(0));
  text.insert(1, "\"unknown\": " + deep + ",");
  EXPECT_EXIT(read(text), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace qmpbackup
