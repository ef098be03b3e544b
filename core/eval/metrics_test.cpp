#include "core/eval/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/eval/fake_scorer.h"
#include "core/eval/random.h"

namespace autoglm::eval {
namespace {

using testing::HasSubstr;

float log_of(double x) { return static_cast<float>(std::log(x)); }

std::vector<float> random_logits(SplitMix64& random, size_t n, float scale = 8) {
  std::vector<float> row(n);
  for (float& x : row) x = scale * (static_cast<float>(random.below(1 << 20)) / (1 << 19) - 1);
  return row;
}

/// The definition, term by term with std::exp.
double plain_kl(const std::vector<float>& p, const std::vector<float>& q) {
  long double zp = 0, zq = 0, kl = 0;
  for (const float x : p) zp += std::exp(static_cast<long double>(x));
  for (const float x : q) zq += std::exp(static_cast<long double>(x));
  for (size_t i = 0; i < p.size(); ++i) {
    kl += std::exp(static_cast<long double>(p[i])) / zp * ((p[i] - std::log(zp)) - (q[i] - std::log(zq)));
  }
  return static_cast<double>(kl);
}

TEST(Kl, EqualsAHandComputedValue) {
  // P = (1/2, 1/4, 1/4), Q = (1/4, 1/4, 1/2): KL = 1/2 ln 2 + 0 + 1/4 ln 1/2 = 1/4 ln 2.
  const std::vector<float> p{log_of(0.5), log_of(0.25), log_of(0.25)};
  const std::vector<float> q{log_of(0.25), log_of(0.25), log_of(0.5)};
  EXPECT_NEAR(kl_divergence(p, q), 0.25 * std::log(2.0), 1e-7);
}

TEST(Kl, AgreesWithTheDefinitionForEverySize) {
  SplitMix64 random(1);
  for (const size_t n : {1u, 2u, 7u, 8u, 9u, 63u, 1000u}) {
    const auto p = random_logits(random, n), q = random_logits(random, n);
    EXPECT_NEAR(kl_divergence(p, q), plain_kl(p, q), 1e-12 * (1 + plain_kl(p, q))) << n;
  }
}

TEST(Kl, IsNeverNegativeAndZeroOnlyBetweenEqualDistributions) {
  SplitMix64 random(2);
  for (int round = 0; round < 200; ++round) {
    const auto p = random_logits(random, 1 + random.below(300), 30);
    auto q = p;
    EXPECT_NEAR(kl_divergence(p, q), 0, 1e-13);
    for (float& x : q) x += 16;  // a constant changes no distribution; 16 is exact here up to rounding of the logits
    EXPECT_NEAR(kl_divergence(p, q), 0, 1e-9);
    q = random_logits(random, p.size(), 30);
    EXPECT_GE(kl_divergence(p, q), 0);
    if (p.size() > 1) {
      EXPECT_GT(kl_divergence(p, q), 0);
    }
  }
}

TEST(Kl, DoesNotDependOnTheOrderOfTheVocabulary) {
  SplitMix64 random(3);
  const auto p = random_logits(random, 777), q = random_logits(random, 777);
  std::vector<float> p2, q2;
  for (const int64_t i : draw_indices(777, 777, 4)) {
    p2.push_back(p[static_cast<size_t>(i)]);
    q2.push_back(q[static_cast<size_t>(i)]);
  }
  EXPECT_NEAR(kl_divergence(p, q), kl_divergence(p2, q2), 1e-12 * kl_divergence(p, q));
}

TEST(Kl, StandsExtremeLogits) {
  const std::vector<float> p{3e38f, -3e38f, 0}, q{-3e38f, 3e38f, 0};
  EXPECT_TRUE(std::isfinite(kl_divergence(p, q)));
  EXPECT_GT(kl_divergence(p, q), 1e38);
  EXPECT_NEAR(kl_divergence(p, p), 0, 1e-15);
}

TEST(LogSumExp, MatchesTheLibraryOverTheWholeRange) {
  for (float x = 0; x > -800; x -= 0.37f) {
    const std::vector<float> row{0, x};
    EXPECT_NEAR(log_sum_exp(row), std::log1p(std::exp(static_cast<double>(x))), 4e-16) << x;
  }
}

TEST(Compare, MatchesHandComputedMeans) {
  // Two tokens. Source: after 0 (3/4, 1/4), after 1 (1/2, 1/2). Compressed: after 0 (1/4, 3/4), after 1 as the source.
  FakeScorer source({{log_of(0.75), log_of(0.25)}, {log_of(0.5), log_of(0.5)}});
  FakeScorer compressed({{log_of(0.25), log_of(0.75)}, {log_of(0.5), log_of(0.5)}});
  CancelToken cancel;
  const auto d = compare(source, compressed, {{0, 0, 1}, {1, 0}}, cancel);  // predictions: 0->0, 0->1, 1->0
  ASSERT_TRUE(d.ok()) << d.status().message();
  const double kl0 = 0.75 * std::log(3.0) - 0.25 * std::log(3.0);
  EXPECT_EQ(d->positions, 3);
  EXPECT_EQ(d->sequences, 2);
  EXPECT_NEAR(d->kl_mean, 2 * kl0 / 3, 1e-7);
  EXPECT_NEAR(d->kl_p50, kl0, 1e-6);
  EXPECT_NEAR(d->kl_p99, kl0, 1e-6);
  EXPECT_NEAR(d->kl_max, kl0, 1e-6);
  EXPECT_NEAR(d->top1_agreement, 1.0 / 3, 1e-15);
  EXPECT_NEAR(d->perplexity_source, std::exp(-(std::log(0.75) + std::log(0.25) + std::log(0.5)) / 3), 1e-6);
  EXPECT_NEAR(d->perplexity, d->perplexity_source, 1e-6);  // 1/4 * 3/4 * 1/2 as well
  EXPECT_NEAR(*perplexity(source, {{0, 0, 1}, {1, 0}}, cancel), d->perplexity_source, 1e-12);
}

TEST(Compare, IsZeroBetweenEqualModelsAndIndependentOfTheOrderOfSequences) {
  SplitMix64 random(5);
  std::vector<std::vector<float>> a, b;
  for (int i = 0; i < 40; ++i) a.push_back(random_logits(random, 40)), b.push_back(random_logits(random, 40));
  FakeScorer source(a), compressed(b);
  std::vector<Tokens> sequences;
  for (int i = 0; i < 9; ++i) {
    Tokens tokens;
    for (int t = 0; t < 5 + i; ++t) tokens.push_back(static_cast<int32_t>(random.below(40)));
    sequences.push_back(tokens);
  }
  CancelToken cancel;
  const auto same = compare(source, source, sequences, cancel);
  EXPECT_LT(same->kl_max, 1e-12);
  EXPECT_EQ(same->top1_agreement, 1);
  EXPECT_EQ(same->perplexity, same->perplexity_source);

  const auto forward = compare(source, compressed, sequences, cancel);
  std::reverse(sequences.begin(), sequences.end());
  const auto backward = compare(source, compressed, sequences, cancel);
  EXPECT_NEAR(forward->kl_mean, backward->kl_mean, 1e-12);
  EXPECT_EQ(forward->kl_p99, backward->kl_p99);
  EXPECT_EQ(forward->top1_agreement, backward->top1_agreement);
  EXPECT_NEAR(forward->perplexity, backward->perplexity, 1e-9);
}

TEST(Compare, AddsUpOverSeveralCalls) {
  FakeScorer source({{1, 0}, {0, 1}}), compressed({{0.5, 0}, {0, 2}});
  CancelToken cancel;
  DivergenceMeter meter;
  ASSERT_TRUE(meter.add(source, compressed, {{0, 1, 1}}, cancel).ok());
  ASSERT_TRUE(meter.add(source, compressed, {{1, 0}}, cancel).ok());
  const auto whole = compare(source, compressed, {{0, 1, 1}, {1, 0}}, cancel);
  EXPECT_EQ(meter.result().kl_mean, whole->kl_mean);
  EXPECT_EQ(meter.result().perplexity, whole->perplexity);
  EXPECT_EQ(meter.positions().sequence_ends, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(meter.positions().nll.size(), 3u);
}

TEST(Compare, ReadsLargeVocabulariesInPieces) {
  const size_t vocab = 3000;  // 16 MiB hold 1398 rows: 2000 positions are read in two pieces
  SplitMix64 random(6);
  const auto row = random_logits(random, vocab), other = random_logits(random, vocab);
  struct OneRow : Scorer {
    struct Batch : ScoredBatch {
      const std::vector<float>* row = nullptr;
      int64_t* largest = nullptr;
      Status logits(int64_t, int64_t, int64_t count, std::span<float> out) const override {
        *largest = std::max(*largest, static_cast<int64_t>(out.size_bytes()));
        for (int64_t i = 0; i < count; ++i) std::copy(row->begin(), row->end(), out.begin() + i * row->size());
        return ok_status();
      }
    };
    std::vector<float> row;
    int64_t largest = 0;
    int64_t vocab_size() const override { return static_cast<int64_t>(row.size()); }
    Result<std::unique_ptr<ScoredBatch>> score(const std::vector<Tokens>&, CancelToken&) override {
      auto batch = std::make_unique<Batch>();
      batch->row = &row;
      batch->largest = &largest;
      return std::unique_ptr<ScoredBatch>(std::move(batch));
    }
    Result<std::vector<Tokens>> generate(const std::vector<Tokens>&, int64_t, const std::vector<int64_t>&,
                                         CancelToken&) override {
      return internal_error("unused");
    }
    Result<std::vector<double>> step_milliseconds(const Tokens&, int64_t, CancelToken&) override {
      return internal_error("unused");
    }
  };
  OneRow source, compressed;
  source.row = row;
  compressed.row = other;
  CancelToken cancel;
  const auto d = compare(source, compressed, {Tokens(2001, 7)}, cancel);
  ASSERT_TRUE(d.ok());
  EXPECT_EQ(d->positions, 2000);
  EXPECT_NEAR(d->kl_mean, plain_kl(row, other), 1e-9);
  EXPECT_LE(source.largest, 16 << 20);
}

TEST(Compare, NamesTheSequenceAndPositionOfANonFiniteLogit) {
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity()};
  for (const float value : bad) {
    FakeScorer good({{0, 1}, {1, 0}}), broken({{0, 1}, {1, value}});
    CancelToken cancel;
    const std::vector<Tokens> sequences{{0, 0}, {0, 0, 1, 0}};
    const Status status = compare(good, broken, sequences, cancel).status();
    EXPECT_EQ(status.code(), StatusCode::kBadInput);
    EXPECT_THAT(status.message(), HasSubstr("compressed model: a logit after position 2 of sequence 1"));
    EXPECT_THAT(compare(broken, good, sequences, cancel).status().message(), HasSubstr("source model"));
    EXPECT_EQ(perplexity(broken, sequences, cancel).status().code(), StatusCode::kBadInput);
  }
}

TEST(Compare, RefusesWhatCannotBeCompared) {
  FakeScorer two({{0, 1}, {1, 0}}), three({{0, 1, 2}, {1, 0, 2}, {0, 0, 0}});
  CancelToken cancel;
  EXPECT_EQ(compare(two, three, {{0, 1}}, cancel).status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(compare(two, two, {{0, 2}}, cancel).status().message(), HasSubstr("token 2 at position 1 of sequence 0"));
  EXPECT_EQ(compare(two, two, {{0, -1}}, cancel).status().code(), StatusCode::kBadInput);
  EXPECT_EQ(compare(two, two, {{0}, {}}, cancel).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(perplexity(two, {}, cancel).status().code(), StatusCode::kInvalidArgument);
  cancel.cancel();
  EXPECT_EQ(compare(two, two, {{0, 1}}, cancel).status().code(), StatusCode::kCancelled);
}

TEST(Quantile, IsTheNearestRank) {
  EXPECT_EQ(quantile({3, 1, 2}, 0.5), 2);
  EXPECT_EQ(quantile({4, 1, 2, 3}, 0.5), 2);
  EXPECT_EQ(quantile({1}, 0.99), 1);
  std::vector<float> hundred(100);
  for (int i = 0; i < 100; ++i) hundred[static_cast<size_t>(i)] = static_cast<float>(i + 1);
  EXPECT_EQ(quantile(hundred, 0.99), 99);
  EXPECT_EQ(quantile(hundred, 1.0), 100);
  EXPECT_EQ(quantile({}, 0.5), 0);
}

TEST(DrawIndices, IsTheSameEverywhereAndAPrefixOfALargerDraw) {
  EXPECT_EQ(SplitMix64(0).next(), 0xE220A8397B1DCDAFULL);  // the reference implementation's first output for seed 0
  const auto few = draw_indices(100, 5, 7), all = draw_indices(100, 1000, 7);
  EXPECT_EQ(all.size(), 100u);
  EXPECT_TRUE(std::equal(few.begin(), few.end(), all.begin()));
  auto sorted = all;
  std::sort(sorted.begin(), sorted.end());
  for (int64_t i = 0; i < 100; ++i) EXPECT_EQ(sorted[static_cast<size_t>(i)], i);
  EXPECT_NE(draw_indices(100, 5, 8), few);
}

}  // namespace
}  // namespace autoglm::eval
