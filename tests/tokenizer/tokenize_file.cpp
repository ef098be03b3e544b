/// Test driver: runs a tokenizer over records on standard input, for comparison with other implementations.
///
///   tokenize_file FOLDER encode [--add-special] [--no-parse-special]   texts in, ids out
///   tokenize_file FOLDER decode [--skip-special]                       ids in, texts out; streaming must agree
///   tokenize_file FOLDER bench FILE...                                 encodes texts; a line of bytes, tokens, CPU
///                                                                      seconds for each
///
/// A record is its length in bytes as a little-endian uint32, then the bytes; ids are int32.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "core/tokenizer/tokenizer.h"

using autoglm::tokenizer::EncodeOptions;
using autoglm::tokenizer::StreamDecoder;
using autoglm::tokenizer::Tokenizer;

namespace {

bool read_record(std::string& record) {
  uint32_t size = 0;
  if (std::fread(&size, sizeof size, 1, stdin) != 1) return false;
  record.resize(size);
  return size == 0 || std::fread(record.data(), size, 1, stdin) == 1;
}

void write_record(const void* data, size_t size) {
  const auto prefix = static_cast<uint32_t>(size);
  std::fwrite(&prefix, sizeof prefix, 1, stdout);
  if (size > 0) std::fwrite(data, size, 1, stdout);
}

int encode(const Tokenizer& tokenizer, const EncodeOptions& options) {
  for (std::string record; read_record(record);) {
    const std::vector<int32_t> ids = tokenizer.encode(record, options);
    write_record(ids.data(), ids.size() * sizeof(int32_t));
  }
  return 0;
}

int decode(const Tokenizer& tokenizer, bool skip_special) {
  for (std::string record; read_record(record);) {
    std::vector<int32_t> ids(record.size() / sizeof(int32_t));
    if (!ids.empty()) std::memcpy(ids.data(), record.data(), ids.size() * sizeof(int32_t));
    const std::string text = tokenizer.decode(ids, skip_special);
    StreamDecoder stream(tokenizer, skip_special);
    std::string streamed;
    for (const int32_t id : ids) {
      const std::string part = stream.push(id);
      if (!part.empty() && (static_cast<uint8_t>(part[0]) & 0xC0) == 0x80) {
        std::fprintf(stderr, "the stream emitted half a character\n");
        return 1;
      }
      streamed += part;
    }
    streamed += stream.finish();
    if (streamed != text) {
      std::fprintf(stderr, "streamed text differs from decode()\n");
      return 1;
    }
    write_record(text.data(), text.size());
  }
  return 0;
}

// Time of this thread on a core, so that other programs do not count.
double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

void bench(const Tokenizer& tokenizer, const char* path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  double best = 1e9;
  size_t tokens = 0;
  for (int i = 0; i < 5; ++i) {
    const double start = cpu_seconds();
    tokens = tokenizer.encode(text).size();
    best = std::min(best, cpu_seconds() - start);
  }
  std::printf("%zu %zu %.6f\n", text.size(), tokens, best);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const auto tokenizer = Tokenizer::load(argv[1]);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", tokenizer.status().message().c_str());
    return 3;
  }
  const std::string mode = argv[2];
  const auto has = [&](std::string_view option) { return std::find(argv + 3, argv + argc, option) != argv + argc; };
  if (mode == "encode") return encode(**tokenizer, {has("--add-special"), !has("--no-parse-special")});
  if (mode == "decode") return decode(**tokenizer, has("--skip-special"));
  if (mode != "bench" || argc < 4) return 2;
  for (int i = 3; i < argc; ++i) bench(**tokenizer, argv[i]);
  return 0;
}
