#include "core/tokenizer/vocabulary.h"

#include <fmt/format.h>

#include "core/format/display.h"
#include "core/tokenizer/hash.h"

namespace autoglm::tokenizer {

Status Vocabulary::add(std::string_view token, int32_t id) {
  if (static_cast<uint64_t>(texts_.size()) + token.size() >= kNone) return bad_input("the tokens are longer than 4 GB");
  if (id < id_end() && by_id_[id].begin != kNone) {
    return bad_input(fmt::format("the id {} is given to {} and to {}", id, format::display(view(id), 40),
                                 format::display(token, 40)));
  }
  if (static_cast<size_t>(count_) * 2 >= slots_.size()) grow();
  const size_t mask = slots_.size() - 1;
  size_t slot = hash_bytes(token) & mask;
  for (; slots_[slot] >= 0; slot = (slot + 1) & mask) {
    if (view(slots_[slot]) == token) {
      return bad_input(fmt::format("the token {} occurs twice", format::display(token, 40)));
    }
  }
  slots_[slot] = id;
  if (id >= id_end()) by_id_.resize(id + 1);
  by_id_[id] = {static_cast<uint32_t>(texts_.size()), static_cast<uint32_t>(token.size())};
  texts_ += token;
  ++count_;
  return ok_status();
}

std::optional<int32_t> Vocabulary::find(std::string_view token) const {
  if (slots_.empty()) return std::nullopt;
  const size_t mask = slots_.size() - 1;
  for (size_t slot = hash_bytes(token) & mask; slots_[slot] >= 0; slot = (slot + 1) & mask) {
    if (view(slots_[slot]) == token) return slots_[slot];
  }
  return std::nullopt;
}

std::optional<std::string_view> Vocabulary::text(int32_t id) const {
  if (id < 0 || id >= id_end() || by_id_[id].begin == kNone) return std::nullopt;
  return view(id);
}

void Vocabulary::grow() {
  slots_.assign(slots_.empty() ? 1024 : slots_.size() * 2, -1);
  const size_t mask = slots_.size() - 1;
  for (int32_t id = 0; id < id_end(); ++id) {
    if (by_id_[id].begin == kNone) continue;
    size_t slot = hash_bytes(view(id)) & mask;
    while (slots_[slot] >= 0) slot = (slot + 1) & mask;
    slots_[slot] = id;
  }
}

}  // namespace autoglm::tokenizer
