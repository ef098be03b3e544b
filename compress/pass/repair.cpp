#include "compress/pass/repair.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/base/log.h"

namespace autoglm::pass {

std::optional<Scheme> more_bits(const Scheme& scheme) {
  if (scheme.cast) return std::nullopt;
  Scheme out = scheme;
  for (const int bits : {3, 4, 5, 6, 8}) {
    if (bits <= scheme.weights.num_bits) continue;
    out.weights.num_bits = bits;
    return out;
  }
  return std::nullopt;
}

double share_lost(const TensorReport& report) {
  // |W - Q|^2 / |W|^2 where Q is as long as W's projection on it, which rounding to the nearest nearly gives.
  return report.output_error > 0 ? report.output_error : 1 - report.cosine * report.cosine;
}

void warn_of_losses(const std::vector<TensorReport>& reports) {
  constexpr double kTooMuch = 0.1;
  const auto is_too_much = [](const TensorReport& report) { return share_lost(report) > kTooMuch; };
  const auto count = std::count_if(reports.begin(), reports.end(), is_too_much);
  if (count == 0) return;
  const TensorReport& worst = *std::max_element(
      reports.begin(), reports.end(), [](const auto& a, const auto& b) { return share_lost(a) < share_lost(b); });
  warn(
      fmt::format("{} of {} matrices lost more than {:.0f} % of their {} (most: {}, {:.0f} %); more bits or --repair "
                  "{:.0f}% mends that",
                  count, reports.size(), 100 * kTooMuch, worst.output_error > 0 ? "output" : "weight", worst.name,
                  100 * share_lost(worst), 100 * kTooMuch));
}

}  // namespace autoglm::pass
