#include "core/eval/language.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "core/tokenizer/utf8.h"

namespace autoglm::eval {
namespace {

constexpr double kCodeSymbols = 0.06;  // share of characters that are brackets or operators; prose has under 0.02
constexpr double kCodeLines = 0.3;     // share of lines that are indented or end as statements do
constexpr double kKanaShare = 0.1;     // of Kana and Han, above which the text is Japanese

enum Script { kHan, kKana, kHangul, kLatin, kCyrillic, kUnknown, kScripts };

struct Range {
  char32_t first, last;
  Script script;
};

// Blocks of Unicode 15, in rising order.
constexpr Range kRanges[] = {{0x0041, 0x005A, kLatin},    {0x0061, 0x007A, kLatin},  {0x00C0, 0x024F, kLatin},
                             {0x0400, 0x052F, kCyrillic}, {0x1100, 0x11FF, kHangul}, {0x1E00, 0x1EFF, kLatin},
                             {0x3040, 0x30FF, kKana},     {0x3130, 0x318F, kHangul}, {0x31F0, 0x31FF, kKana},
                             {0x3400, 0x4DBF, kHan},      {0x4E00, 0x9FFF, kHan},    {0xAC00, 0xD7AF, kHangul},
                             {0xF900, 0xFAFF, kHan},      {0xFF66, 0xFF9D, kKana},   {0x20000, 0x323AF, kHan}};

Script script_of(char32_t c) {
  const auto* found = std::lower_bound(std::begin(kRanges), std::end(kRanges), c,
                                       [](const Range& range, char32_t value) { return range.last < value; });
  return found != std::end(kRanges) && found->first <= c ? found->script : kUnknown;
}

bool is_letter(char32_t c) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

struct LineCounts {
  size_t symbols = 0, characters = 0;
};

/// Without spaces, and without what chat templates write: "<|user|>".
LineCounts count(std::string_view line) {
  constexpr std::string_view kSymbols = "{}()[];=<>+*/&|\\_$#@^~";
  LineCounts counts;
  for (size_t at = 0; at < line.size(); ++at) {
    if (line.substr(at).starts_with("<|")) {
      const size_t close = line.find("|>", at);
      if (close != std::string_view::npos && close - at < 32) {
        at = close + 1;
        continue;
      }
    }
    counts.characters += line[at] != ' ' && line[at] != '\t' ? 1 : 0;
    counts.symbols += kSymbols.find(line[at]) != std::string_view::npos ? 1 : 0;
  }
  return counts;
}

bool is_code(std::string_view text) {
  size_t symbols = 0, characters = 0, lines = 0, shaped = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const size_t last = line.find_last_not_of(" \t\r");
    if (last == std::string_view::npos) continue;
    const bool indented = line.starts_with("  ") || line.starts_with('\t');
    const bool ended = std::string_view("{}();,:").find(line[last]) != std::string_view::npos;
    const LineCounts counts = count(line);
    ++lines;
    shaped += indented || ended ? 1 : 0;
    symbols += counts.symbols;
    characters += counts.characters;
  }
  const auto share = [](size_t part, size_t whole) {
    return static_cast<double>(part) / static_cast<double>(std::max<size_t>(1, whole));
  };
  return share(symbols, characters) >= kCodeSymbols && share(shaped, lines) >= kCodeLines;
}

}  // namespace

std::string_view language_of(std::string_view text) {
  if (is_code(text)) return "code";
  // Words: a run of letters of one script, but two characters of Han or Kana each.
  std::array<int64_t, kScripts> halves{};
  Script before = kScripts;
  for (size_t at = 0; at < text.size();) {
    const tokenizer::Utf8Step step = tokenizer::utf8_step(text, at);
    at += step.size;
    if (step.kind != tokenizer::Utf8Kind::kValid || !is_letter(step.value)) {
      before = kScripts;
      continue;
    }
    const Script script = script_of(step.value);
    if (script == kHan || script == kKana) {
      ++halves[script];
    } else if (script != before) {
      halves[script] += 2;
    }
    before = script;
  }
  int64_t &han = halves[kHan], &kana = halves[kKana];
  if (static_cast<double>(kana) > kKanaShare * static_cast<double>(kana + han)) {
    kana += std::exchange(han, 0);
  } else {
    han += std::exchange(kana, 0);
  }
  const auto most = std::max_element(halves.begin(), halves.end());
  constexpr std::array<std::string_view, kScripts> kNames = {"zh", "ja", "ko", "latin", "cyrillic", "other"};
  return *most > 0 ? kNames[static_cast<size_t>(most - halves.begin())] : "other";
}

}  // namespace autoglm::eval
