#pragma once
/// Vocabulary: token texts by id and ids by text, in three flat arrays.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace autoglm::tokenizer {

class Vocabulary {
 public:
  /// Adds a token. kBadInput when the id or the text is taken. Ids may come in any order and leave gaps.
  Status add(std::string_view token, int32_t id);

  std::optional<int32_t> find(std::string_view token) const;

  /// The token's text; nothing where the id has none.
  std::optional<std::string_view> text(int32_t id) const;

  int32_t count() const { return count_; }
  int32_t id_end() const { return static_cast<int32_t>(by_id_.size()); }  ///< one more than the largest id

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Span {
    uint32_t begin = kNone;
    uint32_t size = 0;
  };
  std::string_view view(int32_t id) const { return std::string_view(texts_).substr(by_id_[id].begin, by_id_[id].size); }
  void grow();

  std::string texts_;           // all tokens, one after the other
  std::vector<Span> by_id_;     // where in texts_ each token lies
  std::vector<int32_t> slots_;  // open addressing: ids by hash of the text, -1 for free; a power of two of them
  int32_t count_ = 0;
};

}  // namespace autoglm::tokenizer
