#include "core/eval/duplicates.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>

#include "core/eval/random.h"
#include "core/tokenizer/utf8.h"

namespace autoglm::eval {
namespace {

constexpr size_t kShingle = 4;  // words
constexpr size_t kBands = 16, kRows = 4;
constexpr uint64_t kSeed = 0x6272'6f64'6572;

uint64_t mixed(uint64_t x) { return SplitMix64(x).next(); }

bool is_space(char32_t c) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL || category == UTF8PROC_CATEGORY_ZP ||
         category == UTF8PROC_CATEGORY_CC;
}

/// Whether a character joins others of its kind into one word: letters, digits and what is written on them, but for
/// scripts without spaces between words.
bool joins(char32_t c) {
  if ((c >= 0x3040 && c <= 0x30FF) || (c >= 0x3400 && c <= 0x9FFF) || (c >= 0xF900 && c <= 0xFAFF) || c >= 0x20000) {
    return false;
  }
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NO;
}

/// A number for each word, in their order.
std::vector<uint64_t> words_of(std::string_view text) {
  std::vector<uint64_t> words;
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const tokenizer::Utf8Step step = tokenizer::utf8_step(text, at);
    at += step.size;
    const char32_t c = step.kind == tokenizer::Utf8Kind::kValid ? step.value : 0xFFFD;
    const bool space = is_space(c), joined = !space && joins(c);
    if (!space) {
      const auto lower = static_cast<uint64_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
      if (!joined || !inside) words.push_back(kSeed);
      words.back() = mixed(words.back() ^ lower);
    }
    inside = joined;
  }
  return words;
}

/// Sorted, each once. Of a text of fewer words than a shingle has: all of them together.
std::vector<uint64_t> shingles_of(const std::vector<uint64_t>& words) {
  std::vector<uint64_t> shingles;
  const size_t width = std::min(kShingle, words.size());
  for (size_t first = 0; first + width <= words.size(); ++first) {
    uint64_t shingle = kSeed;
    for (size_t i = first; i < first + width; ++i) shingle = mixed(shingle ^ words[i]);
    shingles.push_back(shingle);
  }
  std::sort(shingles.begin(), shingles.end());
  shingles.erase(std::unique(shingles.begin(), shingles.end()), shingles.end());
  return shingles;
}

double resemblance(const std::vector<uint64_t>& a, const std::vector<uint64_t>& b) {
  std::vector<uint64_t> common;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(common));
  return static_cast<double>(common.size()) / static_cast<double>(a.size() + b.size() - common.size());
}

/// Two documents have a band in common with a probability of resemblance to the power of kRows.
std::array<uint64_t, kBands> bands_of(const std::vector<uint64_t>& shingles) {
  std::array<uint64_t, kBands> bands;
  SplitMix64 seeds(kSeed);
  for (uint64_t& band : bands) {
    band = seeds.next();
    for (size_t row = 0; row < kRows; ++row) {
      const uint64_t seed = seeds.next();
      uint64_t least = std::numeric_limits<uint64_t>::max();
      for (const uint64_t shingle : shingles) least = std::min(least, mixed(shingle ^ seed));
      band = mixed(band ^ least);
    }
  }
  return bands;
}

}  // namespace

Duplicates::Kind Duplicates::add(std::string_view document) {
  const std::vector<uint64_t> words = words_of(document);
  uint64_t whole = kSeed;
  for (const uint64_t word : words) whole = mixed(whole ^ word);
  if (!same_.insert(whole).second) return Kind::kSame;
  std::vector<uint64_t> shingles = shingles_of(words);
  const auto bands = bands_of(shingles);
  std::vector<size_t> candidates;
  for (const uint64_t band : bands) {
    if (const auto found = bands_.find(band); found != bands_.end()) candidates.push_back(found->second);
  }
  std::sort(candidates.begin(), candidates.end());
  candidates.erase(std::unique(candidates.begin(), candidates.end()), candidates.end());
  for (const size_t earlier : candidates) {
    if (resemblance(shingles, shingles_of_kept_[earlier]) > kResemblance) return Kind::kNear;
  }
  for (const uint64_t band : bands) bands_.emplace(band, shingles_of_kept_.size());
  shingles_of_kept_.push_back(std::move(shingles));
  return Kind::kNew;
}

}  // namespace autoglm::eval
