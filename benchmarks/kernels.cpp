/// Speed of the kernels beside what the memory of this machine gives. AUTOGLM_ISA chooses the instruction set.
///
///   cmake --preset edge -DAUTOGLM_BENCHMARKS=ON && cmake --build --preset edge --target autoglm_kernels_benchmark
///   build/edge/benchmarks/autoglm_kernels_benchmark --benchmark_filter=Decode
///
/// Decode figures are bytes of packed weights read in a second ("bytes_per_second"), from a set of matrices larger than
/// the caches; ReadMemory is the yardstick. Prefill figures are multiply-adds ("items_per_second"); PeakVnni is what
/// INT8 could reach without tiles, which avx512_amx has.
#include <benchmark/benchmark.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "runtime/kernels/attention.h"
#include "runtime/kernels/linear.h"

namespace autoglm::kernels {
namespace {

const Kernels& chosen() {
  static const auto kernels = select();
  if (!kernels.ok()) {
    std::fprintf(stderr, "%s\n", kernels.status().message().c_str());
    std::exit(2);
  }
  return **kernels;
}

/// Weights whose values do not matter, only their bytes.
PackedWeight random_matrix(const PackedShape& shape) {
  auto weight = PackedWeight::allocate(shape);
  if (!weight.ok()) std::abort();
  auto* bytes = const_cast<std::byte*>(weight->bytes().data());
  std::memset(bytes, 0x3C, weight->bytes().size());
  return std::move(*weight);
}

PackedShape shape_of(int64_t rows, int64_t cols, int bits, int64_t group, bool symmetric) {
  if (bits == 16) return {.type = WeightType::kBF16, .rows = rows, .cols = cols};
  return {.type = WeightType::kQuantized,
          .rows = rows,
          .cols = cols,
          .bits = bits,
          .group_cols = group == 0 ? cols : group,
          .symmetric = symmetric,
          .scale_type = ScaleType::kBF16};
}

constexpr int64_t kReadBytes = int64_t{1} << 30;

void ReadMemory(benchmark::State& state) {
  ThreadPool pool(static_cast<int>(state.range(0)));
  const PackedWeight memory = random_matrix({.rows = kReadBytes / 4096, .cols = 1024});
  const auto* words = reinterpret_cast<const uint64_t*>(memory.bytes().data());
  std::vector<uint64_t> sums(64);
  for (auto _ : state) {
    pool.parallel_for(pool.threads(), [&](int64_t begin, int64_t end, int) {
      for (int64_t part = begin; part < end; ++part) {
        const int64_t count = kReadBytes / 8 / pool.threads(), first = part * count;
        uint64_t sum[8] = {};
        for (int64_t i = first; i < first + count; i += 8) {
          __builtin_prefetch(words + i + 512);
          for (int k = 0; k < 8; ++k) sum[k] ^= words[i + k];
        }
        for (const uint64_t s : sum) sums[static_cast<size_t>(part)] ^= s;
      }
    });
    benchmark::DoNotOptimize(sums.data());
  }
  state.SetBytesProcessed(state.iterations() * kReadBytes);
}
void thread_cases(benchmark::internal::Benchmark* b) {
  const auto all = static_cast<int64_t>(std::thread::hardware_concurrency());
  b->ArgName("threads")->Arg(1)->Arg(2);
  if (all > 2) b->Arg(all);
}
BENCHMARK(ReadMemory)->Apply(thread_cases)->UseRealTime()->Unit(benchmark::kMillisecond);

#if defined(__x86_64__)
/// `count` times twelve vpdpbusd that do not wait for one another; 64 multiply-adds each.
__attribute__((target("avx512f,avx512vnni"))) void multiply_registers(int64_t count) {
  constexpr int kSums = 12;
  __m512i sums[kSums], x = _mm512_set1_epi32(static_cast<int>(count)), w = _mm512_set1_epi8(3);
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  for (int64_t i = 0; i < count; ++i) {
    for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, w, x);
    __asm__ volatile("" : "+v"(x));  // else the products are the same each time
  }
  for (const __m512i& sum : sums) __asm__ volatile("" : : "v"(sum));
}

void PeakVnni(benchmark::State& state) {
  if (!__builtin_cpu_supports("avx512vnni")) return state.SkipWithError("no AVX-512 VNNI here");
  constexpr int64_t kCount = 1 << 20;
  ThreadPool pool(static_cast<int>(state.range(0)));
  for (auto _ : state) {
    pool.parallel_for(pool.threads(), [](int64_t begin, int64_t end, int) {
      for (int64_t part = begin; part < end; ++part) multiply_registers(kCount);
    });
  }
  state.SetItemsProcessed(state.iterations() * pool.threads() * kCount * 12 * 64);
}
BENCHMARK(PeakVnni)->Apply(thread_cases)->UseRealTime()->Unit(benchmark::kMillisecond);
#endif

/// One token through matrices of 4096 x 4096 that together exceed the caches.
void Decode(benchmark::State& state) {
  const auto bits = static_cast<int>(state.range(0));
  const PackedShape shape = shape_of(4096, 4096, bits, state.range(1), state.range(2) != 0);
  std::vector<PackedWeight> weights;
  int64_t bytes = 0;
  while (bytes < (int64_t{1} << 29)) {
    weights.push_back(random_matrix(shape));
    bytes += static_cast<int64_t>(weights.back().bytes().size());
  }
  ThreadPool pool(static_cast<int>(state.range(4)));
  Linear linear(chosen(), pool);
  std::vector<float> x(4096, 0.5f), y(4096);
  for (auto _ : state) {
    for (const PackedWeight& weight : weights) {
      linear.run({.weight = &weight, .x = x.data(), .x_stride = 4096, .m = 1, .y = y.data(), .y_stride = 4096},
                 state.range(3) != 0 ? Compute::kInt8 : Compute::kFloat);
    }
  }
  state.SetBytesProcessed(state.iterations() * bytes);
  state.SetLabel(chosen().name);
}
void decode_cases(benchmark::internal::Benchmark* b) {
  b->ArgNames({"bits", "group", "sym", "int8", "threads"});
  for (const int64_t threads : {1, 2}) {
    b->Args({16, 0, 1, 0, threads});
    for (const int64_t int8 : {0, 1}) {
      for (const auto& [bits, group] :
           {std::pair{8, 0}, {8, 128}, {6, 128}, {5, 128}, {4, 128}, {4, 32}, {3, 128}, {2, 64}}) {
        b->Args({bits, group, 1, int8, threads});
      }
      b->Args({4, 128, 0, int8, threads});
    }
  }
}
BENCHMARK(Decode)->Apply(decode_cases)->UseRealTime()->Unit(benchmark::kMillisecond);

/// m tokens through one matrix of 4096 x 4096.
void Prefill(benchmark::State& state) {
  const auto bits = static_cast<int>(state.range(0));
  const PackedWeight weight = random_matrix(shape_of(4096, 4096, bits, state.range(1), true));
  const int64_t m = state.range(2);
  ThreadPool pool(static_cast<int>(state.range(4)));
  Linear linear(chosen(), pool);
  std::vector<float> x(static_cast<size_t>(m * 4096), 0.5f), y(x.size());
  for (auto _ : state) {
    linear.run({.weight = &weight, .x = x.data(), .x_stride = 4096, .m = m, .y = y.data(), .y_stride = 4096},
               state.range(3) != 0 ? Compute::kInt8 : Compute::kFloat);
  }
  state.SetItemsProcessed(state.iterations() * m * 4096 * 4096);
  state.SetLabel(chosen().name);
}
void prefill_cases(benchmark::internal::Benchmark* b) {
  b->ArgNames({"bits", "group", "m", "int8", "threads"});
  for (const int64_t m : {2, 8, 32, 512}) {
    b->Args({16, 0, m, 0, 2})->Args({4, 128, m, 0, 2})->Args({8, 0, m, 1, 2})->Args({4, 128, m, 1, 2});
    b->Args({4, 32, m, 1, 2});
  }
}
BENCHMARK(Prefill)->Apply(prefill_cases)->UseRealTime()->Unit(benchmark::kMillisecond);

/// `tokens` new tokens after `before` cached ones: 32 heads on 4, head_dim 128. Bytes are those of the cache.
void Attention(benchmark::State& state) {
  const int64_t tokens = state.range(1), before = state.range(2), all = tokens + before;
  const KvLayout layout{static_cast<KvType>(state.range(0)), 4, 128, 64};
  const int64_t count = (all + 63) / 64;
  std::vector<std::byte> memory(static_cast<size_t>(count * layout.bytes()));
  std::vector<std::byte*> pages;
  for (int64_t i = 0; i < count; ++i) pages.push_back(memory.data() + i * layout.bytes());
  std::vector<float> q(static_cast<size_t>(tokens * 32 * 128), 0.1f), k(static_cast<size_t>(tokens * 4 * 128), 0.1f);
  std::vector<float> out(q.size());
  ThreadPool pool(2);
  const AttentionCall call{.kv = {.layout = layout, .pages = pages.data()},
                           .q = q.data(),
                           .k = k.data(),
                           .v = k.data(),
                           .q_stride = 32 * 128,
                           .kv_stride = 4 * 128,
                           .out = out.data(),
                           .out_stride = 32 * 128,
                           .heads = 32,
                           .tokens = tokens,
                           .first_position = before,
                           .scale = 0.088f};
  for (auto _ : state) attention(chosen(), pool, {&call, 1});
  state.SetBytesProcessed(state.iterations() * count * layout.bytes());
  state.SetItemsProcessed(state.iterations() * tokens * (before + tokens / 2) * 32 * 128 * 2);
  state.SetLabel(chosen().name);
}
BENCHMARK(Attention)
    ->ArgNames({"kv", "tokens", "before"})
    ->ArgsProduct({{1, 2}, {1}, {1024, 8192}})
    ->Args({1, 512, 0})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

/// The operations between the products, over `tokens` rows of 4096 on one thread; "items_per_second" are elements.
constexpr int64_t kCols = 4096;
template <typename Body>
void over_rows(benchmark::State& state, Body body) {
  const int64_t tokens = state.range(0);
  for (auto _ : state) {
    body(tokens);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * tokens * kCols);
  state.SetLabel(chosen().name);
}
std::vector<float> rows_of(benchmark::State& state, float value) {
  return std::vector<float>(static_cast<size_t>(state.range(0) * kCols), value);
}

void RmsNorm(benchmark::State& state) {
  const std::vector<float> x = rows_of(state, 0.5f), weight(kCols, 1.0f);
  std::vector<float> y(x.size());
  over_rows(state, [&](int64_t tokens) {
    chosen().rms_norm(x.data(), kCols, weight.data(), 1e-5f, tokens, kCols, y.data(), kCols);
  });
}
void Rotary(benchmark::State& state) {  // 32 heads of 128 whose first half turns, as GLM-4's do
  std::vector<float> x = rows_of(state, 0.5f);
  const std::vector<float> cos(static_cast<size_t>(state.range(0) * 32), 0.8f), sin(cos.size(), 0.6f);
  over_rows(state, [&](int64_t tokens) {
    chosen().rotary({.x = x.data(),
                     .stride = kCols,
                     .tokens = tokens,
                     .heads = 32,
                     .head_dim = 128,
                     .pairs = 32,
                     .cos = cos.data(),
                     .sin = sin.data(),
                     .interleaved = true});
  });
}
void SwiGlu(benchmark::State& state) {
  const std::vector<float> gate = rows_of(state, 0.5f), up = rows_of(state, 0.25f);
  std::vector<float> y(gate.size());
  over_rows(state, [&](int64_t tokens) { chosen().swiglu(gate.data(), up.data(), tokens * kCols, y.data()); });
}
void AddScaled(benchmark::State& state) {
  const std::vector<float> x = rows_of(state, 0.5f);
  std::vector<float> y(x.size());
  over_rows(state, [&](int64_t tokens) { chosen().add_scaled(x.data(), 0.5f, tokens * kCols, y.data()); });
}
void Quantize(benchmark::State& state) {
  const std::vector<float> x = rows_of(state, 0.5f);
  std::vector<int8_t> q(x.size());
  over_rows(state, [&](int64_t tokens) {
    for (int64_t t = 0; t < tokens; ++t) {
      benchmark::DoNotOptimize(chosen().quantize(x.data() + t * kCols, kCols, 0, q.data() + t * kCols));
    }
  });
}
void StoreKv(benchmark::State& state, KvType type) {  // 32 heads of 128
  const int64_t tokens = state.range(0);
  const KvLayout layout{type, 32, 128, 16};
  std::vector<std::byte> memory(static_cast<size_t>((tokens + 15) / 16 * layout.bytes()));
  std::vector<std::byte*> pages;
  for (int64_t i = 0; i * 16 < tokens; ++i) pages.push_back(memory.data() + i * layout.bytes());
  const std::vector<float> x = rows_of(state, 0.5f);
  over_rows(state, [&](int64_t count) {
    chosen().store_kv({.kv = {.layout = layout, .pages = pages.data()},
                       .k = x.data(),
                       .v = x.data(),
                       .stride = kCols,
                       .tokens = count});
  });
}
void row_cases(benchmark::internal::Benchmark* b) {
  b->ArgName("tokens")->Arg(1)->Arg(256)->Unit(benchmark::kMicrosecond);
}
BENCHMARK(RmsNorm)->Apply(row_cases);
BENCHMARK(Rotary)->Apply(row_cases);
BENCHMARK(SwiGlu)->Apply(row_cases);
BENCHMARK(AddScaled)->Apply(row_cases);
BENCHMARK(Quantize)->Apply(row_cases);
BENCHMARK_CAPTURE(StoreKv, fp16, KvType::kF16)->Apply(row_cases);
BENCHMARK_CAPTURE(StoreKv, int8, KvType::kInt8)->Apply(row_cases);

}  // namespace
}  // namespace autoglm::kernels

BENCHMARK_MAIN();
