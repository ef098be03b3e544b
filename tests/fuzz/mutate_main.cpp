/// Drives LLVMFuzzerTestOneInput without libFuzzer: every seed as it is, then N inputs mutated from the seeds by a
/// seeded generator, so that a run can be repeated byte for byte.
///
///   NAME_fuzz_mutate [--iterations N] [--seed S] [--crash FILE] [SEED_FILE_OR_FOLDER]...
///
/// An input that crashes, asks for gigabytes, or takes longer than ten seconds is written to FILE; give that file as
/// the only argument with `--iterations 0` to replay it.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<uint8_t>;

constexpr size_t kMaxSize = 1 << 20;
constexpr int kSecondsPerInput = 10;  // of processor time
constexpr rlim_t kMaxMemory = rlim_t{4} << 30;

std::string crash_file = "fuzz.crash";
const Bytes* current = nullptr;

/// Keeps the input under way. Runs in signal handlers: system calls only.
void save_current() {
  if (current == nullptr) return;
  const int file = open(crash_file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file < 0) return;
  [[maybe_unused]] const ssize_t written = write(file, current->data(), current->size());
  close(file);
  current = nullptr;
}

extern "C" void on_signal(int number) {
  save_current();
  signal(number, SIG_DFL);
  raise(number == SIGPROF ? SIGABRT : number);
}

/// Numbers that parsers get wrong: the edges of every width, and lengths near the input's own.
uint64_t edge_number(std::mt19937_64& random, size_t size) {
  const uint64_t edges[] = {0,     1,          7,         8,        127,      128,        255,
                            256,   0x7fff,     0xffff,    1U << 31, ~0U,      1ULL << 32, 1ULL << 53,
                            ~0ULL, ~0ULL >> 1, ~0ULL - 7, size,     size - 8, size + 1,   100'000'000};
  return edges[random() % std::size(edges)];
}

/// Tokens of the text formats under test: structure, escapes, numbers at the edges, nesting.
const char* const kTokens[] = {"{",
                               "}",
                               "[",
                               "]",
                               "\"",
                               ":",
                               ",",
                               "-1",
                               "0",
                               "1e999",
                               "-0.0",
                               "NaN",
                               "null",
                               "true",
                               "[[[[[",
                               "{{",
                               "}}",
                               "{%",
                               "%}",
                               "\\u0000",
                               "\\ud800",
                               "\xff",
                               "\xc3",
                               "\n",
                               "  - ",
                               "&a",
                               "*a",
                               "18446744073709551616",
                               "9223372036854775807",
                               "-9223372036854775808",
                               "for",
                               "endfor"};

void mutate(Bytes& input, const std::vector<Bytes>& seeds, std::mt19937_64& random) {
  const auto at = [&] { return input.empty() ? 0 : random() % input.size(); };
  const auto insert = [&](size_t place, const uint8_t* from, size_t count) {
    input.insert(input.begin() + static_cast<ptrdiff_t>(place), from, from + count);
  };
  switch (random() % 9) {
    case 0:  // flip a bit
      if (!input.empty()) input[at()] ^= static_cast<uint8_t>(1U << (random() % 8));
      break;
    case 1:  // any byte
      if (!input.empty()) input[at()] = static_cast<uint8_t>(random());
      break;
    case 2: {  // an edge number, little-endian, over 1 to 8 bytes
      const uint64_t number = edge_number(random, input.size());
      const size_t place = random() % 4 == 0 ? 0 : at();
      std::memcpy(input.data() + place, &number, std::min<size_t>(size_t{1} << (random() % 4), input.size() - place));
      break;
    }
    case 3:  // cut the end
      input.resize(at());
      break;
    case 4: {  // take a piece out
      const size_t place = at();
      const size_t count = std::min<size_t>(1 + random() % 64, input.size() - place);
      input.erase(input.begin() + static_cast<ptrdiff_t>(place), input.begin() + static_cast<ptrdiff_t>(place + count));
      break;
    }
    case 5: {  // say a piece again
      const size_t place = at();
      const Bytes piece(input.begin() + static_cast<ptrdiff_t>(place),
                        input.begin() + static_cast<ptrdiff_t>(std::min(input.size(), place + 1 + random() % 64)));
      insert(at(), piece.data(), piece.size());
      break;
    }
    case 6: {  // a token of the text formats
      const char* token = kTokens[random() % std::size(kTokens)];
      insert(at(), reinterpret_cast<const uint8_t*>(token), std::strlen(token));
      break;
    }
    case 7: {  // an edge number in decimal where a number stands
      const auto digit = [](uint8_t c) { return c >= '0' && c <= '9'; };
      auto start = std::find_if(input.begin() + static_cast<ptrdiff_t>(at()), input.end(), digit);
      const auto end = std::find_if_not(start, input.end(), digit);
      const size_t place = static_cast<size_t>(start - input.begin());
      if (start == end) break;
      input.erase(start, end);
      const std::string number = std::to_string(edge_number(random, input.size()));
      insert(place, reinterpret_cast<const uint8_t*>(number.data()), number.size());
      break;
    }
    default: {  // the end of another seed
      const Bytes& other = seeds[random() % seeds.size()];
      if (other.empty()) break;
      const size_t from = random() % other.size();
      input.resize(at());
      insert(input.size(), other.data() + from, other.size() - from);
    }
  }
  if (input.size() > kMaxSize) input.resize(kMaxSize);
}

/// SIGPROF after so many seconds of processor time, so that a busy machine is no finding; 0: no more.
void set_alarm(int seconds) {
  const itimerval timer = {{0, 0}, {seconds, 0}};
  setitimer(ITIMER_PROF, &timer, nullptr);
}

void run(const Bytes& input) {
  current = &input;
  set_alarm(kSecondsPerInput);
  LLVMFuzzerTestOneInput(input.data(), input.size());
  set_alarm(0);
  current = nullptr;
}

Bytes read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "%s: cannot be read\n", path.c_str());
    std::exit(2);
  }
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t iterations = 1000;
  uint64_t seed = 1;
  std::vector<fs::path> files;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.starts_with("--") && i + 1 < argc) {
      const char* value = argv[++i];
      if (argument == "--iterations") iterations = std::strtoull(value, nullptr, 10);
      if (argument == "--seed") seed = std::strtoull(value, nullptr, 10);
      if (argument == "--crash") crash_file = value;
    } else if (fs::is_directory(argument)) {
      for (const auto& entry : fs::directory_iterator(argument)) files.push_back(entry.path());
    } else {
      files.emplace_back(argument);
    }
  }
  std::sort(files.begin(), files.end());
  std::vector<Bytes> seeds;
  for (const fs::path& file : files) seeds.push_back(read(file));
  if (seeds.empty()) {
    std::fprintf(stderr, "no seeds: name a file or a folder of files\n");
    return 2;
  }

  if (__sanitizer_set_death_callback != nullptr) {
    __sanitizer_set_death_callback(save_current);
  } else {  // a reader that believes a hostile length ends here; under ASan max_allocation_size_mb does the same
    const rlimit limit = {kMaxMemory, kMaxMemory};
    setrlimit(RLIMIT_AS, &limit);
  }
  for (const int number : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGPROF}) signal(number, on_signal);

  for (const Bytes& input : seeds) run(input);
  std::mt19937_64 random(seed);
  for (uint64_t i = 0; i < iterations; ++i) {
    Bytes input = seeds[random() % seeds.size()];
    for (uint64_t n = 1 + random() % 4; n > 0; --n) mutate(input, seeds, random);
    run(input);
  }
  std::printf("%zu seeds, %llu mutated inputs\n", seeds.size(), static_cast<unsigned long long>(iterations));
  return 0;
}
