#include "core/base/suggest.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

namespace autoglm {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

// Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours cost 1 each.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.size()][b.size()];
}

constexpr size_t kMaxWordLength = 64;  // longer input is no typing error, and the distance costs quadratic time

}  // namespace

std::string nearest(std::string_view word, std::span<const std::string> known) {
  if (word.size() > kMaxWordLength) return "";
  const std::string wanted = lower(word);
  std::string best;
  size_t best_distance = std::max<size_t>(1, word.size() / 3) + 1;
  for (const std::string& candidate : known) {
    const size_t distance = edit_distance(wanted, lower(candidate));
    if (distance < best_distance) best_distance = distance, best = candidate;
  }
  return best;
}

std::string unknown_word(std::string_view what, std::string_view word, std::span<const std::string> known) {
  std::string line = fmt::format("unknown {} '{}'", what, word.substr(0, kMaxWordLength));
  const std::string guess = nearest(word, known);
  line += guess.empty() ? "." : fmt::format("; did you mean '{}'?", guess);
  return line + fmt::format(" Known: {}", fmt::join(known, ", "));
}

}  // namespace autoglm
