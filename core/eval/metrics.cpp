#include "core/eval/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>
#include <optional>
#include <string_view>

namespace autoglm::eval {
namespace {

constexpr int64_t kLogitBytes = 16 << 20;  // logits of one model held at a time; at least one row
constexpr size_t kLanes = 8;    // partial sums: lets the compiler vectorise, and fixes the order of additions
constexpr size_t kBlock = 512;  // values of a row worked on at a time, within the first-level cache

/// exp(x) for x <= 0, within 2 ulp, branch-free so that loops over it are vectorised. x = n ln 2 + r with |r| <=
/// ln(2)/2, e^r by its Taylor series to r^13 (the next term is below 1e-17), 2^n through the exponent bits. Below -708,
/// 0.
inline double exp_nonpositive(double x) {
  constexpr double kLog2E = 1.4426950408889634;
  constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
  constexpr double kShift = 0x1.8p52;  // adding it leaves the rounded integer in the low bits
  const double clamped = x < -708.0 ? -708.0 : x;
  const double shifted = clamped * kLog2E + kShift;
  const double n = shifted - kShift;
  const double r = (clamped - n * kLn2High) - n * kLn2Low;
  double e = 1.0 / 6227020800;
  e = e * r + 1.0 / 479001600;
  e = e * r + 1.0 / 39916800;
  e = e * r + 1.0 / 3628800;
  e = e * r + 1.0 / 362880;
  e = e * r + 1.0 / 40320;
  e = e * r + 1.0 / 5040;
  e = e * r + 1.0 / 720;
  e = e * r + 1.0 / 120;
  e = e * r + 1.0 / 24;
  e = e * r + 1.0 / 6;
  e = e * r + 0.5;
  e = e * r + 1.0;
  e = e * r + 1.0;
  const uint64_t exponent = (std::bit_cast<uint64_t>(shifted) + 1023) << 52;
  return x < -708.0 ? 0.0 : e * std::bit_cast<double>(exponent);
}

struct Peak {
  float max = 0;
  int64_t index = 0;  // of the first maximum
};

/// Maximum of a row; nothing when a value is NaN or infinite.
std::optional<Peak> find_peak(std::span<const float> row) {
  std::array<float, kLanes> best;
  std::array<float, kLanes> poison{};  // x - x is 0 for finite x and NaN otherwise
  best.fill(row[0]);
  size_t i = 0;
  for (; i + kLanes <= row.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float x = row[i + lane];
      best[lane] = x > best[lane] ? x : best[lane];
      poison[lane] += x - x;
    }
  }
  for (; i < row.size(); ++i) {
    best[0] = std::max(best[0], row[i]);
    poison[0] += row[i] - row[i];
  }
  for (const float p : poison) {
    if (p != 0) return std::nullopt;
  }
  const float max = *std::max_element(best.begin(), best.end());
  return Peak{max, std::find(row.begin(), row.end(), max) - row.begin()};
}

double sum(const std::array<double, kLanes>& lanes) {
  double total = 0;
  for (const double value : lanes) total += value;
  return total;
}

/// out[i] = exp(row[i] - max)
void exp_below(std::span<const float> row, double max, double* out) {
  for (size_t i = 0; i < row.size(); ++i) out[i] = exp_nonpositive(static_cast<double>(row[i]) - max);
}

void add_to(std::array<double, kLanes>& lanes, const double* values, size_t count) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += values[i + lane];
  }
  for (; i < count; ++i) lanes[0] += values[i];
}

double log_sum_exp(std::span<const float> row, float max) {
  std::array<double, kLanes> sums{};
  std::array<double, kBlock> exps;
  for (size_t i = 0; i < row.size(); i += kBlock) {
    const auto piece = row.subspan(i, std::min(kBlock, row.size() - i));
    exp_below(piece, max, exps.data());
    add_to(sums, exps.data(), piece.size());
  }
  return std::log(sum(sums)) + max;
}

struct Comparison {
  double kl = 0;
  double log_z_p = 0, log_z_q = 0;  // log of the sums of exp(logit)
};

/// With a = p - max p, b = q - max q, A = sum e^a, B = sum e^b:
/// KL = sum (e^a / A) ((a - log A) - (b - log B)) = (sum e^a (a - b)) / A - log A + log B.
Comparison compare_rows(std::span<const float> p, double p_max, std::span<const float> q, double q_max) {
  std::array<double, kLanes> sum_a{}, sum_b{}, weighted{};
  std::array<double, kBlock> exp_a, exp_b;
  for (size_t i = 0; i < p.size(); i += kBlock) {
    const size_t count = std::min(kBlock, p.size() - i);
    exp_below(p.subspan(i, count), p_max, exp_a.data());
    exp_below(q.subspan(i, count), q_max, exp_b.data());
    add_to(sum_a, exp_a.data(), count);
    add_to(sum_b, exp_b.data(), count);
    for (size_t j = 0; j < count; ++j) exp_a[j] *= (p[i + j] - p_max) - (q[i + j] - q_max);
    add_to(weighted, exp_a.data(), count);
  }
  const double a = sum(sum_a);
  const double log_a = std::log(a), log_b = std::log(sum(sum_b));
  return {std::max(0.0, sum(weighted) / a - log_a + log_b), log_a + p_max, log_b + q_max};
}

Status check_tokens(const std::vector<Tokens>& sequences, int64_t vocab_size) {
  for (size_t s = 0; s < sequences.size(); ++s) {
    for (size_t t = 0; t < sequences[s].size(); ++t) {
      const int32_t token = sequences[s][t];
      if (token < 0 || token >= vocab_size) {
        return bad_input(
            fmt::format("token {} at position {} of sequence {} is outside the model's vocabulary of {}; "
                        "the tokenizer belongs to another model",
                        token, t, s, vocab_size));
      }
    }
  }
  return ok_status();
}

Status not_finite(std::string_view model, size_t sequence, int64_t position) {
  return bad_input(
      fmt::format("{}: a logit after position {} of sequence {} is NaN or infinite; the weights are broken "
                  "or overflow in this compute type",
                  model, position, sequence));
}

/// Calls visit(sequence, first, count) for pieces of the sequences whose logits fit in kLogitBytes.
template <typename Visit>
Status for_each_piece(const std::vector<Tokens>& sequences, int64_t vocab_size, CancelToken& cancel, Visit visit) {
  const int64_t rows = std::max<int64_t>(1, kLogitBytes / (vocab_size * static_cast<int64_t>(sizeof(float))));
  for (size_t s = 0; s < sequences.size(); ++s) {
    const int64_t positions = static_cast<int64_t>(sequences[s].size()) - 1;
    for (int64_t first = 0; first < positions; first += rows) {
      AUTOGLM_RETURN_IF_ERROR(cancel.check());
      AUTOGLM_RETURN_IF_ERROR(visit(s, first, std::min(rows, positions - first)));
    }
  }
  return ok_status();
}

bool has_positions(const std::vector<Tokens>& sequences) {
  return std::any_of(sequences.begin(), sequences.end(), [](const Tokens& s) { return s.size() >= 2; });
}

Status no_positions() { return invalid_argument("nothing to measure on: no sequence has two tokens"); }

}  // namespace

double kl_divergence(std::span<const float> p_logits, std::span<const float> q_logits) {
  const float p_max = *std::max_element(p_logits.begin(), p_logits.end());
  const float q_max = *std::max_element(q_logits.begin(), q_logits.end());
  return compare_rows(p_logits, p_max, q_logits, q_max).kl;
}

double log_sum_exp(std::span<const float> logits) {
  return log_sum_exp(logits, *std::max_element(logits.begin(), logits.end()));
}

Status DivergenceMeter::add(Scorer& source, Scorer& compressed, const std::vector<Tokens>& sequences,
                            CancelToken& cancel) {
  const int64_t vocab = source.vocab_size();
  if (vocab != compressed.vocab_size() || vocab <= 0) {
    return invalid_argument(
        fmt::format("the source has a vocabulary of {} tokens and the compressed model one of {}; "
                    "only models of one vocabulary can be compared",
                    vocab, compressed.vocab_size()));
  }
  AUTOGLM_RETURN_IF_ERROR(check_tokens(sequences, vocab));
  AUTOGLM_ASSIGN_OR_RETURN(const auto p_batch, source.score(sequences, cancel));
  AUTOGLM_ASSIGN_OR_RETURN(const auto q_batch, compressed.score(sequences, cancel));

  const int64_t before = static_cast<int64_t>(losses_.kl.size());
  std::vector<float> p_rows, q_rows;
  AUTOGLM_RETURN_IF_ERROR(for_each_piece(sequences, vocab, cancel, [&](size_t s, int64_t first, int64_t count) {
    p_rows.resize(static_cast<size_t>(count * vocab));
    q_rows.resize(static_cast<size_t>(count * vocab));
    AUTOGLM_RETURN_IF_ERROR(p_batch->logits(static_cast<int64_t>(s), first, count, p_rows));
    AUTOGLM_RETURN_IF_ERROR(q_batch->logits(static_cast<int64_t>(s), first, count, q_rows));
    for (int64_t i = 0; i < count; ++i) {
      const auto offset = static_cast<size_t>(i * vocab);
      const auto p = std::span<const float>(p_rows).subspan(offset, static_cast<size_t>(vocab));
      const auto q = std::span<const float>(q_rows).subspan(offset, static_cast<size_t>(vocab));
      const auto p_peak = find_peak(p);
      if (!p_peak) return not_finite("source model", s, first + i);
      const auto q_peak = find_peak(q);
      if (!q_peak) return not_finite("compressed model", s, first + i);

      const Comparison row = compare_rows(p, p_peak->max, q, q_peak->max);
      const auto target = static_cast<size_t>(sequences[s][static_cast<size_t>(first + i + 1)]);
      const double nll_source = row.log_z_p - p[target], nll = row.log_z_q - q[target];
      kl_sum_ += row.kl;
      nll_source_sum_ += nll_source;
      nll_sum_ += nll;
      losses_.kl.push_back(static_cast<float>(row.kl));
      losses_.nll_source.push_back(static_cast<float>(nll_source));
      losses_.nll.push_back(static_cast<float>(nll));
      losses_.agrees.push_back(p_peak->index == q_peak->index ? 1 : 0);
    }
    return ok_status();
  }));
  int64_t end = before;
  for (const Tokens& sequence : sequences) {
    end += std::max<int64_t>(0, static_cast<int64_t>(sequence.size()) - 1);
    losses_.sequence_ends.push_back(end);
  }
  return ok_status();
}

Divergence DivergenceMeter::result() const {
  Divergence d;
  d.sequences = static_cast<int64_t>(losses_.sequence_ends.size());
  d.positions = static_cast<int64_t>(losses_.kl.size());
  if (d.positions == 0) return d;
  const auto n = static_cast<double>(d.positions);
  d.kl_mean = kl_sum_ / n;
  d.kl_p50 = quantile(losses_.kl, 0.50);
  d.kl_p99 = quantile(losses_.kl, 0.99);
  d.kl_max = *std::max_element(losses_.kl.begin(), losses_.kl.end());
  d.top1_agreement = static_cast<double>(std::count(losses_.agrees.begin(), losses_.agrees.end(), 1)) / n;
  d.perplexity_source = std::exp(nll_source_sum_ / n);
  d.perplexity = std::exp(nll_sum_ / n);
  return d;
}

Result<Divergence> compare(Scorer& source, Scorer& compressed, const std::vector<Tokens>& sequences,
                           CancelToken& cancel) {
  if (!has_positions(sequences)) return no_positions();
  DivergenceMeter meter;
  AUTOGLM_RETURN_IF_ERROR(meter.add(source, compressed, sequences, cancel));
  return meter.result();
}

Result<double> perplexity(Scorer& scorer, const std::vector<Tokens>& sequences, CancelToken& cancel) {
  if (!has_positions(sequences)) return no_positions();
  const int64_t vocab = scorer.vocab_size();
  AUTOGLM_RETURN_IF_ERROR(check_tokens(sequences, vocab));
  AUTOGLM_ASSIGN_OR_RETURN(const auto batch, scorer.score(sequences, cancel));
  double nll = 0;
  int64_t positions = 0;
  std::vector<float> rows;
  AUTOGLM_RETURN_IF_ERROR(for_each_piece(sequences, vocab, cancel, [&](size_t s, int64_t first, int64_t count) {
    rows.resize(static_cast<size_t>(count * vocab));
    AUTOGLM_RETURN_IF_ERROR(batch->logits(static_cast<int64_t>(s), first, count, rows));
    for (int64_t i = 0; i < count; ++i, ++positions) {
      const auto row = std::span<const float>(rows).subspan(static_cast<size_t>(i * vocab), static_cast<size_t>(vocab));
      const auto peak = find_peak(row);
      if (!peak) return not_finite("model", s, first + i);
      nll += log_sum_exp(row, peak->max) - row[static_cast<size_t>(sequences[s][static_cast<size_t>(first + i + 1)])];
    }
    return ok_status();
  }));
  return std::exp(nll / static_cast<double>(positions));
}

float quantile(std::vector<float> values, double q) {
  if (values.empty()) return 0;
  const double rank = std::ceil(q * static_cast<double>(values.size()));  // 1-based
  const auto index = static_cast<int64_t>(std::clamp(rank, 1.0, static_cast<double>(values.size()))) - 1;
  std::nth_element(values.begin(), values.begin() + index, values.end());
  return values[static_cast<size_t>(index)];
}

namespace {

std::vector<double> ranks(std::span<const double> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> out(values.size());
  for (size_t first = 0; first < order.size();) {
    size_t last = first;
    while (last < order.size() && values[order[last]] == values[order[first]]) ++last;
    for (size_t i = first; i < last; ++i) out[order[i]] = static_cast<double>(first + last - 1) / 2;
    first = last;
  }
  return out;
}

}  // namespace

double rank_correlation(std::span<const double> x, std::span<const double> y) {
  const std::vector<double> a = ranks(x), b = ranks(y);
  const double mean = (static_cast<double>(a.size()) - 1) / 2;
  double product = 0, square_a = 0, square_b = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    product += (a[i] - mean) * (b[i] - mean);
    square_a += (a[i] - mean) * (a[i] - mean);
    square_b += (b[i] - mean) * (b[i] - mean);
  }
  return square_a > 0 && square_b > 0 ? product / std::sqrt(square_a * square_b) : 0;
}

}  // namespace autoglm::eval
