#include "runtime/kernels/attention.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "runtime/kernels/testing.h"

namespace autoglm::kernels {
namespace {

using testing::random_floats;

struct Case {
  KvType type;
  int64_t heads, kv_heads, head_dim, page_tokens;
  std::vector<int64_t> steps;  ///< tokens of each call: the prompt's pieces, then one by one
};

/// A sequence's cache, its pages in no particular order and each behind an offset, as in a pool of several layers.
class Cache {
 public:
  Cache(const KvLayout& layout, int64_t tokens) : layout_(layout) {
    const int64_t count = (tokens + layout.page_tokens - 1) / layout.page_tokens;
    memory_.resize(static_cast<size_t>(count * page_bytes()), std::byte{0x7F});
    for (int64_t i = 0; i < count; ++i) pages_.push_back(memory_.data() + (count - 1 - i) * page_bytes());
  }
  KvPages pages() const { return {.layout = layout_, .pages = pages_.data(), .offset = kOffset}; }

 private:
  static constexpr int64_t kOffset = 64;
  int64_t page_bytes() const { return kOffset + layout_.bytes(); }

  KvLayout layout_;
  std::vector<std::byte> memory_;
  std::vector<std::byte*> pages_;
};

/// Attention by its definition, in double.
std::vector<float> expected_attention(const Case& c, const std::vector<float>& q, const std::vector<float>& k,
                                      const std::vector<float>& v, int64_t tokens, float scale) {
  std::vector<float> out(q.size());
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t h = 0; h < c.heads; ++h) {
      const int64_t kv = h / (c.heads / c.kv_heads), d = c.head_dim;
      const float* query = q.data() + (t * c.heads + h) * d;
      std::vector<double> weights;
      double largest = -INFINITY, sum = 0;
      for (int64_t s = 0; s <= t; ++s) {
        double score = 0;
        for (int64_t i = 0; i < d; ++i)
          score += static_cast<double>(query[i]) * k[static_cast<size_t>((s * c.kv_heads + kv) * d + i)];
        weights.push_back(score * scale);
        largest = std::max(largest, weights.back());
      }
      for (double& w : weights) sum += w = std::exp(w - largest);
      for (int64_t i = 0; i < d; ++i) {
        double value = 0;
        for (int64_t s = 0; s <= t; ++s)
          value += weights[static_cast<size_t>(s)] * v[static_cast<size_t>((s * c.kv_heads + kv) * d + i)];
        out[static_cast<size_t>((t * c.heads + h) * d + i)] = static_cast<float>(value / sum);
      }
    }
  }
  return out;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(static_cast<double>(a[i]) - b[i]));
  return std::isnan(a[0]) ? INFINITY : largest;
}

class AttentionTest : public ::testing::TestWithParam<const Kernels*> {
 protected:
  std::vector<float> run(const Case& c, const std::vector<float>& q, const std::vector<float>& k,
                         const std::vector<float>& v, int64_t tokens, float scale, int threads = 1) {
    ThreadPool pool(threads);
    const KvLayout layout{c.type, c.kv_heads, c.head_dim, c.page_tokens};
    Cache cache(layout, tokens);
    std::vector<float> out(q.size(), NAN);
    int64_t done = 0;
    for (size_t step = 0; done < tokens; ++step) {
      const int64_t n = step < c.steps.size() ? c.steps[step] : 1;
      const int64_t q_stride = c.heads * c.head_dim, kv_stride = c.kv_heads * c.head_dim;
      const AttentionCall call{.kv = cache.pages(),
                               .q = q.data() + done * q_stride,
                               .k = k.data() + done * kv_stride,
                               .v = v.data() + done * kv_stride,
                               .q_stride = q_stride,
                               .kv_stride = kv_stride,
                               .out = out.data() + done * q_stride,
                               .out_stride = q_stride,
                               .heads = c.heads,
                               .tokens = n,
                               .first_position = done,
                               .scale = scale};
      attention(*GetParam(), pool, {&call, 1});
      done += n;
    }
    return out;
  }
};

TEST_P(AttentionTest, AgreesWithItsDefinition) {
  unsigned seed = 1;
  const std::vector<Case> cases = {{KvType::kF32, 4, 2, 32, 16, {17, 1, 5}}, {KvType::kF32, 3, 3, 16, 32, {40}},
                                   {KvType::kF32, 16, 1, 64, 16, {9, 20}},   {KvType::kF32, 4, 4, 24, 64, {70, 3}},
                                   {KvType::kF32, 2, 1, 5, 16, {1}},         {KvType::kF32, 8, 2, 128, 64, {130}},
                                   {KvType::kF16, 4, 2, 32, 16, {17, 1, 5}}, {KvType::kF16, 8, 2, 128, 64, {130}},
                                   {KvType::kF16, 2, 1, 12, 32, {33, 2}},    {KvType::kInt8, 4, 2, 32, 16, {17, 1, 5}},
                                   {KvType::kInt8, 8, 2, 128, 64, {130}},    {KvType::kInt8, 2, 2, 9, 16, {18}}};
  for (const Case& c : cases) {
    int64_t tokens = 4;
    for (const int64_t n : c.steps) tokens += n;
    const auto q = random_floats(static_cast<size_t>(tokens * c.heads * c.head_dim), ++seed);
    const auto k = random_floats(static_cast<size_t>(tokens * c.kv_heads * c.head_dim), ++seed);
    const auto v = random_floats(k.size(), ++seed);
    const float scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
    const auto expected = expected_attention(c, q, k, v, tokens, scale);
    const double tolerance = c.type == KvType::kF32 ? 5e-6 : c.type == KvType::kF16 ? 2e-3 : 4e-2;
    const auto out = run(c, q, k, v, tokens, scale);
    EXPECT_LT(largest_difference(out, expected), tolerance)
        << fmt::format("type {}, {} heads on {}, head_dim {}, pages of {}", static_cast<int>(c.type), c.heads,
                       c.kv_heads, c.head_dim, c.page_tokens);
  }
}

TEST_P(AttentionTest, ReadsAndWritesTheCacheLikeTheReference) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kInt8}) {
    for (const int64_t dims : {1, 9, 16, 40, 64}) {
      const KvLayout layout{type, 3, dims, 16};
      const auto k = random_floats(static_cast<size_t>(21 * 3 * dims), 1), v = random_floats(k.size(), 2);
      std::vector<std::vector<std::byte>> stored;
      for (const Kernels* table : {GetParam(), available().back()}) {
        std::vector<std::byte> memory(static_cast<size_t>(2 * layout.bytes()), std::byte{0x55});
        std::byte* const pages[] = {memory.data() + layout.bytes(), memory.data()};
        table->store_kv({.kv = {.layout = layout, .pages = pages},
                         .k = k.data(),
                         .v = v.data(),
                         .stride = 3 * dims,
                         .tokens = 21,
                         .first_position = 5});
        stored.push_back(memory);
      }
      EXPECT_EQ(stored[0], stored[1]) << "type " << static_cast<int>(type) << ", head_dim " << dims;
    }
  }
}

TEST_P(AttentionTest, GivesTheSameBytesHoweverItIsSplit) {
  const Case whole{KvType::kF16, 8, 2, 64, 32, {100}}, pieces{KvType::kF16, 8, 2, 64, 32, {30, 1, 40}};
  const auto q = random_floats(100 * 8 * 64, 1), k = random_floats(100 * 2 * 64, 2), v = random_floats(k.size(), 3);
  const auto one = run(whole, q, k, v, 100, 0.125f);
  EXPECT_EQ(run(whole, q, k, v, 100, 0.125f, 2), one);
  EXPECT_EQ(run(whole, q, k, v, 100, 0.125f, 7), one);
  EXPECT_EQ(run(pieces, q, k, v, 100, 0.125f), one);
}

TEST_P(AttentionTest, HoldsScoresOfAnySize) {
  const Case c{KvType::kF32, 1, 1, 16, 16, {40}};
  for (const float size : {0.0f, 1e-30f, 1e3f, 1e15f}) {
    auto q = random_floats(40 * 16, 4, size), k = random_floats(40 * 16, 5, size);
    const auto v = random_floats(40 * 16, 6);
    const auto out = run(c, q, k, v, 40, 1);
    for (const float value : out) ASSERT_TRUE(std::isfinite(value)) << size;
    EXPECT_LT(largest_difference(out, expected_attention(c, q, k, v, 40, 1)), size > 1e2f ? 0.2 : 1e-5) << size;
  }
}

TEST_P(AttentionTest, RunsSequencesOfDifferentLengthsTogether) {
  ThreadPool pool(2);
  const KvLayout layout{KvType::kF16, 2, 32, 16};
  const int64_t lengths[] = {1, 37, 16};
  std::vector<Cache> caches, lone_caches;
  std::vector<std::vector<float>> q, k, v, out, alone;
  std::vector<AttentionCall> calls, lone_calls;
  for (unsigned i = 0; i < 3; ++i) {
    const auto n = static_cast<size_t>(lengths[i]);
    caches.emplace_back(layout, lengths[i]);
    lone_caches.emplace_back(layout, lengths[i]);
    q.push_back(random_floats(n * 4 * 32, i));
    k.push_back(random_floats(n * 2 * 32, 10 + i));
    v.push_back(random_floats(n * 2 * 32, 20 + i));
    out.emplace_back(q.back().size());
    alone.emplace_back(q.back().size());
  }
  for (size_t i = 0; i < 3; ++i) {
    AttentionCall call{.kv = caches[i].pages(),
                       .q = q[i].data(),
                       .k = k[i].data(),
                       .v = v[i].data(),
                       .q_stride = 128,
                       .kv_stride = 64,
                       .out = out[i].data(),
                       .out_stride = 128,
                       .heads = 4,
                       .tokens = lengths[i],
                       .first_position = 0,
                       .scale = 0.2f};
    calls.push_back(call);
    call.kv = lone_caches[i].pages();
    call.out = alone[i].data();
    attention(*GetParam(), pool, {&call, 1});
  }
  attention(*GetParam(), pool, calls);
  EXPECT_EQ(out, alone);
}

INSTANTIATE_TEST_SUITE_P(Isa, AttentionTest, testing::every_isa(), testing::isa_name);

}  // namespace
}  // namespace autoglm::kernels
