#pragma once
/// Tokens that are found in the text itself, before the model sees it: special tokens and others that were added.
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "core/base/status.h"
#include "core/tokenizer/function_ref.h"

namespace autoglm::tokenizer {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool single_word = false;  ///< only where no letter or digit touches it
  bool lstrip = false;       ///< takes the white space before it along
  bool rstrip = false;       ///< takes the white space after it along
  bool normalized = false;   ///< is searched for in the normalized text, in its own normalized form
  bool special = false;      ///< left out by decoding with skip_special_tokens
};

/// A set of strings of which the leftmost, and there the longest, occurrences are found.
class StringMatcher {
 public:
  /// `value` comes back with the occurrences. Empty strings are ignored; of equal strings the last one counts.
  void add(std::string text, int32_t value);
  void finish();  ///< to be called once, after the last add()

  bool empty() const { return entries_.empty(); }

  struct Occurrence {
    size_t begin;
    size_t end;
    int32_t value;
  };
  /// The first occurrence at byte `from` or later; false where there is none.
  bool find(std::string_view text, size_t from, Occurrence& found) const;

 private:
  struct Entry {
    std::string text;
    int32_t value;
  };
  std::vector<Entry> entries_;  // sorted by text
  bool starts_[256] = {};
};

class AddedTokens {
 public:
  /// Adds or redefines a token. `normalized_content` is the content as the normalizer leaves it.
  void add(AddedToken token, std::string normalized_content);
  void finish();  ///< to be called once, after the last add()

  const AddedToken* by_id(int32_t id) const;
  const AddedToken* by_content(std::string_view content) const;

  /// What decoding takes for the token: its content, in normalized form where it is matched in that form.
  std::string_view decoded_text(const AddedToken& token) const;

  bool is_special(std::string_view content) const { return special_.contains(std::string(content)); }
  int32_t id_end() const { return id_end_; }

  /// Splits `text` at the tokens of one sort. Calls `piece(part, token)` from left to right; token is null for what
  /// lies between tokens. With `parse_special` false, special tokens are plain text.
  using Sink = FunctionRef<void(std::string_view part, const AddedToken* token)>;
  void split(std::string_view text, bool normalized, bool parse_special, Sink sink) const;

  bool any(bool normalized) const { return !(normalized ? normalized_ : verbatim_).empty(); }

 private:
  struct Stored {
    AddedToken token;
    std::string normalized_content;
  };
  std::map<int32_t, Stored> tokens_;
  std::unordered_map<std::string, int32_t> ids_;
  std::unordered_set<std::string> special_;
  StringMatcher verbatim_;
  StringMatcher normalized_;
  int32_t id_end_ = 0;
};

}  // namespace autoglm::tokenizer
