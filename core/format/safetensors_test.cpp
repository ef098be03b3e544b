#include "core/format/safetensors.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "core/base/memory.h"
#include "core/format/display.h"
#include "core/format/testing.h"

namespace autoglm::format {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::string file_bytes(std::string_view header, size_t data_bytes) {
  return safetensors_bytes(header, std::string(data_bytes, '\x01'));
}

Result<SafetensorsHeader> parse(const std::string& file) { return parse_safetensors(std::as_bytes(std::span(file))); }

/// The message of refusing `header` before `data_bytes` bytes of data; one printable line, whatever the header holds.
std::string refusal(std::string_view header, size_t data_bytes = 0) {
  const Result<SafetensorsHeader> result = parse(file_bytes(header, data_bytes));
  EXPECT_FALSE(result.ok()) << header;
  EXPECT_EQ(result.status().code(), StatusCode::kBadInput);
  std::string message = result.status().message();
  for (const char c : message) EXPECT_GE(static_cast<unsigned char>(c), 0x20) << message;
  EXPECT_LT(message.size(), 1000u);
  return message;
}

using SafetensorsFileTest = FolderTest;

TEST(Safetensors, ReadsTensorsInTheOrderOfTheirBytes) {
  const auto header =
      parse(file_bytes(R"({"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},"__metadata__":{"format":"pt"},)"
                       R"("a":{"data_offsets":[0,4],"dtype":"BF16","shape":[2,1]}}   )",
                       12));
  ASSERT_TRUE(header.ok()) << header.status().message();
  ASSERT_EQ(header->tensors.size(), 2u);
  EXPECT_EQ(header->tensors[0].name, "a");
  EXPECT_EQ(header->tensors[0].shape, (Shape{2, 1}));
  EXPECT_EQ(header->tensors[0].dtype, DType::kBF16);
  EXPECT_EQ(header->tensors[1].nbytes, 8);
  EXPECT_EQ(header->tensors[1].offset, header->tensors[0].offset + 4);
  EXPECT_EQ(header->metadata.at("format"), "pt");
}

TEST(Safetensors, ReadsScalarsEmptyTensorsAndEmptyFiles) {
  const auto header = parse(file_bytes(R"({"s":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
                                       R"("e":{"dtype":"F32","shape":[3,0,5],"data_offsets":[8,8]}})",
                                       8));
  ASSERT_TRUE(header.ok()) << header.status().message();
  EXPECT_EQ(header->tensors[0].shape, Shape{});
  EXPECT_EQ(header->tensors[1].nbytes, 0);
  EXPECT_TRUE(parse(file_bytes("{}", 0)).ok());
  EXPECT_TRUE(parse(file_bytes(R"({"__metadata__":null})", 0)).ok());
}

TEST(Safetensors, ReadsEveryDType) {
  for (const char* name : {"BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "U16", "I16", "F16", "BF16", "U32",
                           "I32", "F32", "U64", "I64", "F64", "C64"}) {
    const auto dtype = dtype_from_string(name);
    ASSERT_TRUE(dtype.has_value()) << name;
    EXPECT_EQ(to_string(*dtype), name);
    const auto bytes = static_cast<size_t>(3 * size_of(*dtype));
    const auto header = parse(
        file_bytes(fmt::format(R"({{"x":{{"dtype":"{}","shape":[3],"data_offsets":[0,{}]}}}})", name, bytes), bytes));
    EXPECT_TRUE(header.ok()) << header.status().message();
  }
}

TEST(Safetensors, RefusesBadLengths) {
  EXPECT_FALSE(parse("").ok());
  EXPECT_FALSE(parse(std::string("\x02\0\0", 3)).ok());
  for (const uint64_t size : {uint64_t{3}, uint64_t{100'000'001}, uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{0} - 7}) {
    std::string file = file_bytes("{}", 0);
    std::memcpy(file.data(), &size, sizeof size);
    EXPECT_FALSE(parse(file).ok()) << size;
  }
  EXPECT_THAT(refusal(""), HasSubstr("does not start with '{'"));
  EXPECT_THAT(refusal(" {}"), HasSubstr("does not start with '{'"));
  EXPECT_THAT(refusal("\xef\xbb\xbf{}"), HasSubstr("does not start with '{'"));
  EXPECT_THAT(refusal("{}", 5), HasSubstr("5 bytes follow"));
}

TEST(Safetensors, RefusesBadJson) {
  for (const char* header :
       {"{", "{}x", "{}{}", R"({"a":})", "{'a':1}", R"({"a":{"dtype":"F32",}})", R"({"a\q":{}})"}) {
    EXPECT_THAT(refusal(header), HasSubstr("JSON")) << header;
  }
  EXPECT_THAT(refusal(std::string_view("{}\0\0", 4)), HasSubstr("zero byte"));
  EXPECT_THAT(refusal("{\"\xff\":{}}"), HasSubstr("JSON"));
  // Nesting must not use up the stack.
  EXPECT_THAT(refusal(fmt::format("{{\"a\":{}", std::string(1 << 20, '['))), HasSubstr("an array where none may be"));
  EXPECT_THAT(refusal(fmt::format("{{\"a\":{{\"shape\":{}", std::string(1 << 20, '['))),
              HasSubstr("an array where none may be"));
}

TEST(Safetensors, RefusesBadEntriesByName) {
  const auto entry = [](const std::string& fields) { return "{\"layer.weight\":{" + fields + "}}"; };
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"("dtype":"F32","shape":[1])", "lacks data_offsets"},
      {R"("dtype":"F32","data_offsets":[0,4])", "lacks shape"},
      {R"("shape":[1],"data_offsets":[0,4])", "lacks dtype"},
      {R"("dtype":"F32","shape":[1],"data_offsets":[0])", "exactly two"},
      {R"("dtype":"F32","shape":[1],"data_offsets":[0,4,8])", "exactly two"},
      {R"("dtype":"F32","shape":[1],"data_offsets":[4,0])", "before it starts"},
      {R"("dtype":"F32","shape":[1],"data_offsets":[0,-4])", "negative number -4"},
      {R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])", "negative number -1"},
      {R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])", "number '1.0'"},
      {R"("dtype":"F32","shape":[1],"data_offsets":[0,4e0])", "number '4e0'"},
      {R"("dtype":"F32","shape":[1],"data_offsets":[0,9223372036854775808])", "too large"},
      {R"("dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551616])", "number"},
      {R"("dtype":"F32","shape":[1],"data_offsets":[0,1e999])", "JSON"},
      {R"("dtype":"F32","shape":["1"],"data_offsets":[0,4])", "a string where none may be"},
      {R"("dtype":"F32","shape":{},"data_offsets":[0,4])", "an object where none may be"},
      {R"("dtype":"F32","shape":null,"data_offsets":[0,4])", "null where none may be"},
      {R"("dtype":7,"shape":[1],"data_offsets":[0,4])", "a number where none may be"},
      {R"("dtype":"F32","shape":[2],"data_offsets":[0,4])", "needs 8"},
      {R"("dtype":"F32","shape":[0],"data_offsets":[0,4])", "needs 0"},
      {R"("dtype":"F31","shape":[1],"data_offsets":[0,4])", "unknown dtype 'F31'"},
      {R"("dtype":"f32","shape":[1],"data_offsets":[0,4])", "unknown dtype 'f32'"},
      {R"("dtype":"F4","shape":[8],"data_offsets":[0,4])", "less than a byte"},
      {R"("dtype":"F6_E2M3","shape":[8],"data_offsets":[0,4])", "less than a byte"},
      {R"("dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4])", "dtype twice"},
      {R"("dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4])", "shape twice"},
      {R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[0,4])", "data_offsets twice"},
      {R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"extra":{"a":[]})", "unknown member 'extra'"},
      {R"("dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,4])", "overflows"},
      {R"("dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,4])", "overflows"},
      {R"("dtype":"F64","shape":[0,4294967296,4294967296],"data_offsets":[0,0])", "overflows"},
      {R"("dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,9223372036854775807])", "truncated"},
      {R"("dtype":"F32","shape":[2],"data_offsets":[0,8])", "truncated"},
  };
  for (const auto& [fields, expected] : cases) {
    const std::string message = refusal(entry(fields), 4);
    EXPECT_THAT(message, HasSubstr(expected)) << fields;
    if (message.find("JSON") == std::string::npos) {
      EXPECT_THAT(message, HasSubstr("'layer.weight'")) << fields;
    }
  }
  std::string dims = "1";
  for (int i = 0; i < 64; ++i) dims += ",1";
  EXPECT_THAT(refusal(entry(R"("dtype":"F32","data_offsets":[0,4],"shape":[)" + dims + "]"), 4),
              HasSubstr("64 dimensions"));
}

TEST(Safetensors, RefusesOverlapsHolesAndDuplicates) {
  const auto two = [](int a0, int a1, int b0, int b1, const std::string& second = "b") {
    const auto one = [](const std::string& name, int from, int to) {
      return fmt::format(R"("{}":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}})", name, to - from, from, to);
    };
    return fmt::format("{{{},{}}}", one("a", a0, a1), one(second, b0, b1));
  };
  EXPECT_TRUE(parse(file_bytes(two(0, 4, 4, 8), 8)).ok());
  EXPECT_TRUE(parse(file_bytes(two(4, 8, 0, 4), 8)).ok());
  EXPECT_THAT(refusal(two(0, 4, 3, 8), 8), HasSubstr("overlap"));
  EXPECT_THAT(refusal(two(0, 8, 0, 8), 8), HasSubstr("overlap"));
  EXPECT_THAT(refusal(two(0, 8, 2, 6), 8), HasSubstr("overlap"));
  EXPECT_THAT(refusal(two(0, 4, 5, 8), 8), HasSubstr("holes"));
  EXPECT_THAT(refusal(two(1, 4, 4, 8), 8), HasSubstr("starts at byte 1"));
  EXPECT_THAT(refusal(two(0, 4, 4, 8), 9), HasSubstr("1 bytes follow"));
  EXPECT_THAT(refusal(two(0, 4, 4, 8), 7), HasSubstr("truncated"));
  EXPECT_THAT(refusal(two(0, 4, 4, 8, "a"), 8), HasSubstr("name 'a' occurs twice"));
  EXPECT_THAT(refusal(two(0, 4, 4, 8, R"(\u0061)"), 8), HasSubstr("name 'a' occurs twice"));
  EXPECT_THAT(refusal(R"({"__metadata__":{},"__metadata__":{}})"), HasSubstr("occurs twice"));
  EXPECT_THAT(refusal(R"({"__metadata__":{"k":"1","k":"2"}})"), HasSubstr("'k' twice"));
  EXPECT_THAT(refusal(R"({"__metadata__":{"k":1}})"), HasSubstr("__metadata__ has a number"));
  EXPECT_THAT(refusal(R"({"__metadata__":[]})"), HasSubstr("__metadata__ has an array"));
}

TEST(Safetensors, EscapesAndShortensNamesInMessages) {
  EXPECT_THAT(refusal(R"({"a\nb\u001b[31m\u202e":{"dtype":"X"}})"), HasSubstr(R"('a\nb\x1b[31m\xe2\x80\xae')"));
  EXPECT_THAT(refusal("{\"" + std::string(100'000, 'n') + R"(":{"dtype":"X"}})"), HasSubstr("nnn...'"));
  EXPECT_EQ(display("\xff'\\ \xe5\xb1\x82"), R"('\xff\'\\ )"
                                             "\xe5\xb1\x82'");
}

// Every single-byte change and every truncation of a good file is either accepted or refused in one line; the sanitizer
// build makes this a memory check.
TEST(Safetensors, SurvivesMutation) {
  const std::string good =
      file_bytes(R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},)"
                 R"("a":{"data_offsets":[0,4],"dtype":"BF16","shape":[2,1]}})",
                 12);
  ASSERT_TRUE(parse(good).ok());
  const auto check = [](const std::string& bytes) {
    const auto header = parse(bytes);
    if (!header.ok()) return;
    for (const TensorInfo& t : header->tensors) {
      ASSERT_GE(t.offset, 8);
      ASSERT_LE(static_cast<size_t>(t.offset + t.nbytes), bytes.size());
      ASSERT_EQ(*element_count(t.shape) * size_of(t.dtype), t.nbytes);
    }
  };
  for (size_t n = 0; n < good.size(); ++n) EXPECT_FALSE(parse(good.substr(0, n)).ok()) << n;
  for (size_t i = 0; i < good.size() - 12; ++i) {
    for (int value = 0; value < 256; ++value) {
      std::string bytes = good;
      bytes[i] = static_cast<char>(value);
      check(bytes);
    }
  }
  std::mt19937 random(7);
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes = good;
    for (int edits = 1 + static_cast<int>(random() % 4); edits > 0; --edits) {
      const size_t at = random() % bytes.size();
      switch (random() % 3) {
        case 0: bytes[at] = static_cast<char>(random()); break;
        case 1: bytes.erase(at, 1 + random() % 4); break;
        default: bytes.insert(at, bytes.substr(random() % bytes.size(), random() % 8));
      }
      if (bytes.empty()) break;
    }
    check(bytes);
  }
}

TEST_F(SafetensorsFileTest, MapsAFile) {
  const auto path = write("a.safetensors", file_bytes(R"({"x":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", 3));
  auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(file.ok()) << file.status().message();
  const SafetensorsFile moved = std::move(*file);
  EXPECT_EQ(moved.path(), path);
  ASSERT_NE(moved.find("x"), nullptr);
  EXPECT_EQ(moved.find("y"), nullptr);
  const auto bytes = moved.bytes(*moved.find("x"));
  EXPECT_EQ(bytes.size(), 3u);
  EXPECT_EQ(bytes[2], std::byte{1});
  moved.release(*moved.find("x"));
  EXPECT_EQ(bytes[2], std::byte{1});  // comes back from the file
}

TEST_F(SafetensorsFileTest, ReleaseLowersResidentMemory) {
  constexpr size_t kBytes = 64 << 20;
  const auto path = write("big.safetensors",
                          file_bytes(R"({"x":{"dtype":"U8","shape":[67108864],"data_offsets":[0,67108864]}})", kBytes));
  for (const bool is_kept : {false, true}) {
    const auto file = SafetensorsFile::open(path);
    ASSERT_TRUE(file.ok());
    if (is_kept) file->keep();
    const TensorInfo& x = file->tensors()[0];
    const int64_t before = current_rss_bytes();
    size_t sum = 0;
    for (const std::byte b : file->bytes(x)) sum += static_cast<size_t>(b);
    EXPECT_EQ(sum, kBytes);
    EXPECT_GT(current_rss_bytes() - before, static_cast<int64_t>(kBytes / 2));
    file->release(x);
    EXPECT_LT(current_rss_bytes() - before, int64_t{4} << 20);
  }
}

TEST_F(SafetensorsFileTest, RefusesWhatIsNoFile) {
  EXPECT_THAT(SafetensorsFile::open(folder_ / "none").status().message(), HasSubstr("No such file"));
  EXPECT_THAT(SafetensorsFile::open(folder_).status().message(), HasSubstr("not a regular file"));
  EXPECT_THAT(SafetensorsFile::open(write("empty", "")).status().message(), HasSubstr("is empty"));
  ASSERT_EQ(mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(SafetensorsFile::open(folder_ / "pipe").status().message(), HasSubstr("not a regular file"));
  const auto bad = SafetensorsFile::open(write("bad\n.safetensors", file_bytes(R"({"w":{"dtype":"Q"}})", 0)));
  EXPECT_THAT(bad.status().message(), HasSubstr("bad\\n.safetensors: tensor 'w'"));
}

}  // namespace
}  // namespace autoglm::format
