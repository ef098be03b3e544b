#include "core/eval/strata.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <queue>
#include <utility>

namespace autoglm::eval {
namespace {

/// Of a stratum that has got nothing: larger than any other's, and the larger the heavier it is.
constexpr double kUnserved = 1e100;

}  // namespace

std::vector<size_t> spread(const std::vector<Stratum>& strata, int64_t count) {
  std::vector<int64_t> got(strata.size());
  const auto later = [](const std::pair<double, size_t>& a, const std::pair<double, size_t>& b) {
    return a.first != b.first ? a.first < b.first : a.second > b.second;
  };
  std::priority_queue<std::pair<double, size_t>, std::vector<std::pair<double, size_t>>, decltype(later)> claims(later);
  for (size_t i = 0; i < strata.size(); ++i) {
    if (strata[i].samples > 0) claims.emplace(strata[i].weight * kUnserved, i);
  }
  std::vector<size_t> turns;
  while (!claims.empty() && static_cast<int64_t>(turns.size()) < count) {
    const size_t i = claims.top().second;
    claims.pop();
    turns.push_back(i);
    if (++got[i] < strata[i].samples) claims.emplace(strata[i].weight / static_cast<double>(got[i]), i);
  }
  return turns;
}

int length_class(int64_t tokens, int64_t longest) {
  return tokens >= longest ? 64 : static_cast<int>(std::bit_width(static_cast<uint64_t>(tokens)));
}

std::string length_range(int64_t tokens, int64_t longest) {
  if (tokens >= longest) return std::to_string(longest);
  const auto low = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(tokens)));
  const int64_t high = std::min(2 * low, longest) - 1;
  return low == high ? std::to_string(low) : fmt::format("{}-{}", low, high);
}

}  // namespace autoglm::eval
