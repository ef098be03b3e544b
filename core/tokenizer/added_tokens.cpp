#include "core/tokenizer/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>

#include "core/tokenizer/utf8.h"

namespace autoglm::tokenizer {
namespace {

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_word_character(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: return c == 0x200C || c == 0x200D;  // joiners
  }
}

// The start of the character that ends at byte `end > 0` of valid UTF-8.
size_t character_before(std::string_view text, size_t end) {
  do --end;
  while ((static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
  return end;
}

bool touches_word(std::string_view text, size_t begin, size_t end) {
  return (begin > 0 && is_word_character(utf8_step(text, character_before(text, begin)).value)) ||
         (end < text.size() && is_word_character(utf8_step(text, end).value));
}

size_t strip_left(std::string_view text, size_t begin) {
  while (begin > 0) {
    const size_t before = character_before(text, begin);
    if (!is_white_space(utf8_step(text, before).value)) break;
    begin = before;
  }
  return begin;
}

size_t strip_right(std::string_view text, size_t end) {
  while (end < text.size()) {
    const Utf8Step step = utf8_step(text, end);
    if (!is_white_space(step.value)) break;
    end += step.size;
  }
  return end;
}

}  // namespace

void StringMatcher::add(std::string text, int32_t value) {
  if (!text.empty()) entries_.push_back({std::move(text), value});
}

void StringMatcher::finish() {
  std::ranges::stable_sort(entries_, {}, &Entry::text);
  std::vector<Entry> unique;
  for (Entry& entry : entries_) {
    starts_[static_cast<unsigned char>(entry.text[0])] = true;
    if (!unique.empty() && unique.back().text == entry.text) {
      unique.back().value = entry.value;
    } else {
      unique.push_back(std::move(entry));
    }
  }
  entries_ = std::move(unique);
}

bool StringMatcher::find(std::string_view text, size_t from, Occurrence& found) const {
  if (entries_.empty()) return false;
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!starts_[static_cast<unsigned char>(text[begin])]) continue;
    // Narrows the sorted entries to those that agree with the text in their first `depth` bytes.
    auto first = entries_.begin();
    auto last = entries_.end();
    bool any = false;
    for (size_t depth = 0; first != last; ++depth) {
      if (first->text.size() == depth) {
        found = {begin, begin + depth, first->value};
        any = true;
        if (++first == last) break;
      }
      if (begin + depth == text.size()) break;
      const auto byte = static_cast<unsigned char>(text[begin + depth]);
      const auto byte_at_depth = [depth](const Entry& e) { return static_cast<unsigned char>(e.text[depth]); };
      first = std::ranges::lower_bound(first, last, byte, {}, byte_at_depth);
      last = std::ranges::upper_bound(first, last, byte, {}, byte_at_depth);
    }
    if (any) return true;
  }
  return false;
}

void AddedTokens::add(AddedToken token, std::string normalized_content) {
  if (token.special) special_.insert(token.content);
  ids_[token.content] = token.id;
  id_end_ = std::max(id_end_, token.id + 1);
  const int32_t id = token.id;
  if (!token.normalized) normalized_content = token.content;
  tokens_[id] = {std::move(token), std::move(normalized_content)};
}

void AddedTokens::finish() {
  for (const auto& [id, stored] : tokens_) {
    (stored.token.normalized ? normalized_ : verbatim_).add(stored.normalized_content, id);
  }
  normalized_.finish();
  verbatim_.finish();
}

const AddedToken* AddedTokens::by_id(int32_t id) const {
  const auto found = tokens_.find(id);
  return found == tokens_.end() ? nullptr : &found->second.token;
}

const AddedToken* AddedTokens::by_content(std::string_view content) const {
  const auto found = ids_.find(std::string(content));
  return found == ids_.end() ? nullptr : by_id(found->second);
}

std::string_view AddedTokens::decoded_text(const AddedToken& token) const {
  return tokens_.at(token.id).normalized_content;
}

void AddedTokens::split(std::string_view text, bool normalized, bool parse_special, Sink sink) const {
  const StringMatcher& matcher = normalized ? normalized_ : verbatim_;
  size_t done = 0;
  StringMatcher::Occurrence found{};
  for (size_t from = 0; matcher.find(text, from, found); from = found.end) {
    const AddedToken& token = tokens_.at(found.value).token;
    if (!parse_special && special_.contains(token.content)) continue;
    if (token.single_word && touches_word(text, found.begin, found.end)) continue;
    size_t begin = found.begin;
    size_t end = found.end;
    if (token.lstrip) begin = std::max(strip_left(text, begin), done);
    if (token.rstrip) end = strip_right(text, end);
    if (done < begin) sink(text.substr(done, begin - done), nullptr);
    // The white space of the token before may have taken all of this one; then it is gone, as in the reference.
    if (begin < end) sink(text.substr(begin, end - begin), &token);
    done = end;
  }
  if (done < text.size()) sink(text.substr(done), nullptr);
}

}  // namespace autoglm::tokenizer
