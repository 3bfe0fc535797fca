// What qcow2 files and `qemu-img map` say, cut and hostile.
#include "qmpbackup/qcow2_header.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "qmpbackup/errors.hpp"
#include "qmpbackup/image_map.hpp"

namespace qmpbackup {
namespace {

// A header as docs/interop/qcow2.txt lays it out.
struct HeaderBytes {
  std::vector<std::byte> bytes = std::vector<std::byte>(4096);

  HeaderBytes(unsigned version, std::uint64_t virtual_size, std::size_t header_length = 112) {
    put(0, 4, 0x514649fb);
    put(4, 4, version);
    put(20, 4, 16);
    put(24, 8, virtual_size);
    put(100, 4, header_length);
  }

  void put(std::size_t offset, std::size_t size, std::uint64_t value) {
    for (std::size_t i = 0; i < size; ++i) {
      bytes[offset + i] = static_cast<std::byte>(value >> (8 * (size - 1 - i)) & 0xff);
    }
  }

  void put_backing(std::size_t offset, const std::string& name) {
    put(8, 8, offset);
    put(16, 4, name.size());
    for (std::size_t i = 0; i < name.size(); ++i) {
      bytes[offset + i] = static_cast<std::byte>(name[i]);
    }
  }
};

TEST(Qcow2Header, Version_3_Tells_Size_Clusters_And_Compression) {
  HeaderBytes file(3, kMiB + 512);
  const auto header = parse_qcow2_header(file.bytes);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->version, 3U);
  EXPECT_EQ(header->virtual_size, kMiB + 512);
  EXPECT_EQ(header->cluster_size, 64 * kKiB);
  EXPECT_TRUE(header->backing_file.empty());
  EXPECT_FALSE(header->zstd || header->corrupt);
  file.put(104, 1, 1);
  file.put(20, 4, 20);
  EXPECT_TRUE(parse_qcow2_header(file.bytes)->zstd);
  EXPECT_EQ(parse_qcow2_header(file.bytes)->cluster_size, kMiB);
}

TEST(Qcow2Header, Compression_Counts_Only_Where_The_Header_Is_Long_Enough) {
  HeaderBytes file(3, kMiB, 104);
  file.put(104, 1, 1);  // the first header extension, not a compression type
  EXPECT_FALSE(parse_qcow2_header(file.bytes)->zstd);
}

TEST(Qcow2Header, Version_2_Is_Read_Without_The_Fields_It_Lacks) {
  HeaderBytes file(2, 2 * kMiB);
  file.put(72, 4, 0x12345678);  // a header extension lies there
  file.put(76, 4, 2);
  file.put(104, 1, 1);
  const auto header = parse_qcow2_header(file.bytes);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->virtual_size, 2 * kMiB);
  EXPECT_FALSE(header->corrupt || header->zstd);
  EXPECT_TRUE(parse_qcow2_header(std::span(file.bytes).first(72)));
}

TEST(Qcow2Header, Corrupt_Bit_Is_Seen_And_The_Dirty_Bit_Is_Not_It) {
  HeaderBytes file(3, kMiB);
  file.put(72, 8, 1);
  EXPECT_FALSE(parse_qcow2_header(file.bytes)->corrupt);
  file.put(72, 8, 3);
  EXPECT_TRUE(parse_qcow2_header(file.bytes)->corrupt);
}

TEST(Qcow2Header, Backing_Format_Is_Read_From_Among_The_Extensions) {
  HeaderBytes file(3, kMiB);
  EXPECT_EQ(parse_qcow2_header(file.bytes)->backing_format, "");
  file.put(112, 4, 0x6803f857);  // some other one, of three bytes and padding
  file.put(116, 4, 3);
  file.put(128, 4, 0xe2792aca);
  file.put(132, 4, 3);
  file.put(136, 3, 0x726177);
  file.put_backing(0x100, "d.full.qcow2");
  EXPECT_EQ(parse_qcow2_header(file.bytes)->backing_format, "raw");
  file.put(132, 4, 0x100 - 136);
  EXPECT_TRUE(parse_qcow2_header(file.bytes)) << "up to the name";
  for (const std::uint64_t size : {std::uint64_t{0x100 - 135}, std::uint64_t{5000}, std::uint64_t{0xffffffff}}) {
    file.put(132, 4, size);
    EXPECT_FALSE(parse_qcow2_header(file.bytes)) << size;
  }
}

TEST(Qcow2Header, Backing_File_Is_Read_As_It_Stands_And_By_Name) {
  HeaderBytes file(3, kMiB);
  for (const std::string name : {"d.full.qcow2", "./vm1:d.full.qcow2", "/backup/Füße \"1\".qcow2"}) {
    file.put_backing(0x200, name);
    EXPECT_EQ(parse_qcow2_header(file.bytes)->backing_file, name);
  }
  EXPECT_EQ(parse_qcow2_header(file.bytes)->backing_name(), "Füße \"1\".qcow2");
  file.put_backing(0x200, "./vm1:d.full.qcow2");
  EXPECT_EQ(parse_qcow2_header(file.bytes)->backing_name(), "vm1:d.full.qcow2");
  file.put_backing(0x200, "d.full.qcow2");
  EXPECT_EQ(parse_qcow2_header(file.bytes)->backing_name(), "d.full.qcow2");
}

TEST(Qcow2Header, Cut_At_Any_Length_Is_Refused_Until_All_Of_It_Is_There) {
  HeaderBytes file(3, kMiB);
  file.put_backing(0x200, "d.full.qcow2");
  const std::size_t whole = 0x200 + 12;
  for (std::size_t length = 0; length < whole; ++length) {
    EXPECT_FALSE(parse_qcow2_header(std::span(file.bytes).first(length))) << length;
  }
  EXPECT_TRUE(parse_qcow2_header(std::span(file.bytes).first(whole)));
}

TEST(Qcow2Header, Hostile_Fields_Are_Refused_Without_Reading_Past_The_End) {
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
  const auto refused = [](std::size_t offset, std::size_t size, std::uint64_t value) {
    HeaderBytes file(3, kMiB);
    file.put_backing(0x200, "d.full.qcow2");
    file.put(offset, size, value);
    return !parse_qcow2_header(file.bytes);
  };
  EXPECT_TRUE(refused(0, 4, 0x514649fa));
  for (const std::uint64_t version : {0U, 1U, 4U, 0xffffffffU}) {
    EXPECT_TRUE(refused(4, 4, version)) << version;
  }
  for (const std::uint64_t offset : {std::uint64_t{4096}, std::uint64_t{4090}, kMost, kMost - 5, kMost / 2}) {
    EXPECT_TRUE(refused(8, 8, offset)) << offset;
  }
  EXPECT_TRUE(refused(16, 4, 1024));
  EXPECT_TRUE(refused(16, 4, 0xffffffff));
  for (const std::uint64_t bits : {0U, 8U, 31U, 64U, 0xffffffffU}) {
    EXPECT_TRUE(refused(20, 4, bits)) << bits;
  }
  const std::vector<std::byte> zeros(512);
  EXPECT_FALSE(parse_qcow2_header(zeros));
}

TEST(Qcow2Header, Any_Byte_Changed_Is_Read_Or_Refused_But_Never_A_Crash) {
  HeaderBytes file(3, kMiB);
  file.put_backing(0x200, "d.full.qcow2");
  for (std::size_t at = 0; at < 0x210; ++at) {
    for (const unsigned value : {0U, 1U, 0x7fU, 0x80U, 0xffU}) {
      std::vector<std::byte> changed = file.bytes;
      changed[at] = static_cast<std::byte>(value);
      const auto header = parse_qcow2_header(changed);
      EXPECT_TRUE(!header || header->backing_file.size() < 1024);
    }
  }
}

// What qemu-img 7.2 printed for a level of 1 MiB + 512 bytes.
const char* const kMap =
    "[{ \"start\": 0, \"length\": 65536, \"depth\": 0, \"present\": true, \"zero\": false, \"data\": true},\n"
    "{ \"start\": 65536, \"length\": 131072, \"depth\": 0, \"present\": false, \"zero\": true, \"data\": false},\n"
    "{ \"start\": 196608, \"length\": 65536, \"depth\": 0, \"present\": true, \"zero\": true, \"data\": false},\n"
    "{ \"start\": 262144, \"length\": 786432, \"depth\": 1, \"present\": true, \"zero\": false, \"data\": true},\n"
    "{ \"start\": 1048576, \"length\": 512, \"depth\": 0, \"present\": true, \"zero\": false, \"data\": true}]\n";

TEST(ImageMap, Adds_Up_What_The_Image_Itself_Holds_Zero_Clusters_Included) {
  ImageMap map;
  map.add(kMap);
  EXPECT_EQ(map.present(), 65536U + 65536 + 512);
  EXPECT_EQ(map.end(), kMiB + 512);
}

TEST(ImageMap, Is_The_Same_However_The_Output_Is_Cut) {
  const std::string text = kMap;
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    ImageMap map;
    map.add(text.substr(0, cut));
    map.add(text.substr(cut));
    EXPECT_EQ(map.present(), 131584U) << cut;
    EXPECT_EQ(map.end(), kMiB + 512) << cut;
  }
  ImageMap by_byte;
  for (const char c : text) {
    by_byte.add({&c, 1});
  }
  EXPECT_EQ(by_byte.end(), kMiB + 512);
}

TEST(ImageMap, Of_A_Cut_Off_Output_Does_Not_Reach_The_End) {
  const std::string text = kMap;
  for (std::size_t length = 0; length + 3 < text.size(); ++length) {
    ImageMap map;
    map.add(text.substr(0, length));
    EXPECT_LT(map.end(), kMiB + 512) << length;
  }
}

TEST(ImageMap, Takes_The_Output_Of_An_Older_Qemu_Img_Without_Present) {
  ImageMap map;
  map.add("[{ \"start\": 0, \"length\": 100, \"depth\": 0, \"zero\": true, \"data\": false},\n");
  map.add("{ \"start\": 100, \"length\": 50, \"depth\": 0, \"zero\": false, \"data\": false},\n");
  map.add("{ \"start\": 150, \"length\": 7, \"depth\": 0, \"zero\": false, \"data\": true}]\n");
  EXPECT_EQ(map.present(), 107U);
}

TEST(ImageMap, Of_An_Image_Without_Extents_Is_Empty) {
  ImageMap map;
  map.add("[]\n");
  EXPECT_EQ(map.present(), 0U);
  EXPECT_EQ(map.end(), 0U);
}

TEST(ImageMap, Refuses_Gaps_Overlaps_And_What_Qemu_Img_Does_Not_Print) {
  for (const char* line :
       {R"([{"start": 1, "length": 5, "depth": 0, "present": true, "zero": false, "data": true},)",
        R"([{"start": -1, "length": 5, "depth": 0, "zero": false, "data": true},)",
        R"([{"start": 0, "depth": 0, "zero": false, "data": true},)", R"([{"start": 0, "length": 5},)",
        R"([{"start": "0", "length": 5, "depth": 0, "zero": false, "data": true},)",
        R"([{"start": 0, "length": 5, "depth": 0, "present": 7, "zero": false, "data": true},)", R"([{nonsense}])"}) {
    ImageMap map;
    EXPECT_THROW(map.add(std::string(line) + "\n"), Error) << line;
  }
  ImageMap map;
  map.add("[{\"start\": 0, \"length\": 5, \"depth\": 0, \"zero\": false, \"data\": true},\n");
  EXPECT_THROW(map.add("{\"start\": 0, \"length\": 5, \"depth\": 0, \"zero\": false, \"data\": true}]\n"), Error);
}

TEST(ImageMap, Refuses_A_Line_Without_End_Instead_Of_Filling_Memory) {
  ImageMap map;
  const std::string piece(64 * kKiB, 'x');
  EXPECT_THROW(
      {
        for (int i = 0; i < 100; ++i) {
          map.add(piece);
        }
      },
      Error);
}

TEST(Covers, Wants_Every_Byte_That_The_Job_Copied) {
  EXPECT_TRUE(covers(kMiB, kMiB, kGiB, 64 * kKiB));
  EXPECT_TRUE(covers(kMiB + 1, kMiB, kGiB, 64 * kKiB));
  EXPECT_FALSE(covers(kMiB - 1, kMiB, kGiB, 64 * kKiB));
  EXPECT_FALSE(covers(0, 64 * kKiB, kGiB, kMiB));
  EXPECT_TRUE(covers(0, 0, kGiB, kMiB));
}

TEST(Covers, Forgives_Only_The_Part_Of_The_Last_Cluster_Past_The_Disks_End) {
  const ByteCount odd = kMiB + 512;
  EXPECT_TRUE(covers(odd, kMiB + 64 * kKiB, odd, 64 * kKiB)) << "a full: the job counts its last cluster whole";
  EXPECT_TRUE(covers(odd, 2 * kMiB, odd, kMiB));
  EXPECT_FALSE(covers(odd - 64 * kKiB, kMiB + 64 * kKiB, odd, 64 * kKiB));
  EXPECT_TRUE(covers(512, 64 * kKiB, odd, 64 * kKiB)) << "an incremental of the last cluster alone";
  EXPECT_FALSE(covers(0, 64 * kKiB, odd, 64 * kKiB));
  EXPECT_TRUE(covers(512, 64 * kKiB, odd, 4 * kKiB)) << "backup's clusters are 64 KiB at least";
}

}  // namespace
}  // namespace qmpbackup
