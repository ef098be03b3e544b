#include "core/tokenizer/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "core/format/display.h"
#include "core/tokenizer/byte_level.h"
#include "core/tokenizer/hash.h"
#include "core/tokenizer/utf8.h"

namespace autoglm::tokenizer {
namespace {

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581

// Of non-empty valid UTF-8.
char32_t last_character(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return utf8_step(text, at).value;
}

}  // namespace

void MergeTable::set(int32_t left, int32_t right, Merge merge) {
  if (count_ * 2 >= slots_.size()) grow();
  const uint64_t key = key_of(left, right);
  size_t slot = slot_of(key);
  while (slots_[slot].key != key && slots_[slot].key != kFree) slot = (slot + 1) & mask_;
  count_ += slots_[slot].key == kFree;
  slots_[slot] = {key, merge};
}

void MergeTable::grow() {
  std::vector<Slot> old = std::move(slots_);
  slots_.assign(old.empty() ? 1024 : old.size() * 2, Slot{});
  mask_ = slots_.size() - 1;
  for (const Slot& s : old) {
    if (s.key == kFree) continue;
    size_t slot = slot_of(s.key);
    while (slots_[slot].key != kFree) slot = (slot + 1) & mask_;
    slots_[slot] = s;
  }
}

Bpe::Bpe(Vocabulary vocabulary, BpeOptions options) : vocabulary_(std::move(vocabulary)), options_(std::move(options)) {
  for (int b = 0; b < 256; ++b) {
    byte_ids_[b] = vocabulary_.find(byte_level_character(static_cast<uint8_t>(b))).value_or(-1);
    fallback_ids_[b] = vocabulary_.find(fmt::format("<0x{:02X}>", b)).value_or(-1);
  }
}

Result<Bpe> Bpe::create(Vocabulary vocabulary, const MergeList& merges, BpeOptions options) {
  Bpe bpe(std::move(vocabulary), std::move(options));
  const Vocabulary& known = bpe.vocabulary_;
  if (bpe.options_.unk_token) {
    bpe.unk_id_ = known.find(*bpe.options_.unk_token);
    if (!bpe.unk_id_) {
      return bad_input(
          fmt::format("unk_token {} is not in the vocabulary", format::display(*bpe.options_.unk_token, 40)));
    }
  }
  const size_t prefix_size = bpe.options_.continuing_subword_prefix.size();
  std::string merged;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string_view left = merges.left(rank);
    const std::string_view right = merges.right(rank);
    const auto not_a_token = [&](std::string_view text) {
      return bad_input(fmt::format("merges[{}]: {} is not in the vocabulary", rank, format::display(text, 40)));
    };
    const std::optional<int32_t> left_id = known.find(left);
    if (!left_id) return not_a_token(left);
    const std::optional<int32_t> right_id = known.find(right);
    if (!right_id) return not_a_token(right);
    if (right.size() < prefix_size) return bad_input(fmt::format("merges[{}]: shorter than the subword prefix", rank));
    merged.assign(left).append(right.substr(prefix_size));
    const std::optional<int32_t> merged_id = known.find(merged);
    if (!merged_id) return not_a_token(merged);
    bpe.merges_.set(*left_id, *right_id, {static_cast<uint32_t>(rank), *merged_id});
  }
  bpe.find_seams(merges);
  return bpe;
}

void Bpe::find_seams(const MergeList& merges) {
  const bool plain = options_.continuing_subword_prefix.empty() && options_.end_of_word_suffix.empty();
  if (options_.byte_level || options_.ignore_merges || !plain || !vocabulary_.find(kSpaceSymbol)) return;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    if (!merges.right(rank).starts_with(kSpaceSymbol) || merges.left(rank).empty()) continue;
    const std::string_view left = merges.left(rank);
    const bool ends_unknown = (options_.unk_token && left.ends_with(*options_.unk_token)) ||
                              (left.size() >= 6 && left.ends_with('>') && left.substr(left.size() - 6, 3) == "<0x");
    if (ends_unknown) return;  // what is joined to the space may be any character
    joined_before_space_.push_back(last_character(left));
  }
  std::ranges::sort(joined_before_space_);
  joined_before_space_.erase(std::unique(joined_before_space_.begin(), joined_before_space_.end()),
                             joined_before_space_.end());
  has_seams_ = true;
}

Result<Bpe> Bpe::from_ranks(Vocabulary vocabulary) {
  Bpe bpe(std::move(vocabulary), {.ignore_merges = true, .byte_level = true});
  for (int b = 0; b < 256; ++b) {
    if (bpe.byte_ids_[b] < 0) return bad_input(fmt::format("the byte 0x{:02X} has no token", b));
  }
  const Vocabulary& known = bpe.vocabulary_;
  for (int32_t id = 0; id < known.id_end(); ++id) {
    const std::optional<std::string_view> token = known.text(id);
    if (!token) continue;
    for (size_t at = 1; at < token->size(); ++at) {
      if ((static_cast<uint8_t>((*token)[at]) & 0xC0) == 0x80) continue;  // within a character of the alphabet
      const std::optional<int32_t> left = known.find(token->substr(0, at));
      const std::optional<int32_t> right = left ? known.find(token->substr(at)) : std::nullopt;
      if (right) bpe.merges_.set(*left, *right, {static_cast<uint32_t>(id), id});
    }
  }
  return bpe;
}

void Bpe::encode(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& ids) const {
  if (has_seams_) {
    for (size_t at = word.find(kSpaceSymbol, 1); at != std::string_view::npos;) {
      if (std::ranges::binary_search(joined_before_space_, last_character(word.substr(0, at)))) {
        at = word.find(kSpaceSymbol, at + 1);
      } else {
        encode_part(word.substr(0, at), scratch, ids);
        word.remove_prefix(at);
        at = word.find(kSpaceSymbol, 1);
      }
    }
  }
  encode_part(word, scratch, ids);
}

void Bpe::encode_part(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& ids) const {
  if (word.empty()) return;
  if (word.size() >= BpeScratch::kMaxKey) return encode_uncached(word, scratch, ids);
  if (scratch.cache_.empty()) scratch.cache_.resize(BpeScratch::kCacheLines);
  const uint64_t hash = hash_bytes(word);
  BpeScratch::CacheLine& line = scratch.cache_[hash % BpeScratch::kCacheLines];
  if (line.hash == static_cast<uint32_t>(hash >> 32) && line.key_size == word.size() &&
      std::memcmp(line.key.data(), word.data(), word.size()) == 0) {
    ids.insert(ids.end(), line.ids.begin(), line.ids.begin() + line.id_count);
    return;
  }
  const size_t before = ids.size();
  encode_uncached(word, scratch, ids);
  const size_t count = ids.size() - before;
  if (count > BpeScratch::kMaxIds) return;
  line.hash = static_cast<uint32_t>(hash >> 32);
  line.key_size = static_cast<uint8_t>(word.size());
  line.id_count = static_cast<uint8_t>(count);
  std::memcpy(line.key.data(), word.data(), word.size());
  std::copy(ids.begin() + static_cast<ptrdiff_t>(before), ids.end(), line.ids.begin());
}

void Bpe::encode_uncached(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& ids) const {
  if (options_.ignore_merges) {
    const std::optional<int32_t> id = vocabulary_.find(options_.byte_level ? to_byte_level(word) : word);
    if (id) {
      ids.push_back(*id);
      return;
    }
  }
  split_characters(word, scratch);
  merge_symbols(scratch);
  for (const BpeScratch::Symbol& symbol : scratch.symbols_) {
    if (symbol.id >= 0) ids.push_back(symbol.id);
  }
}

void Bpe::split_characters(std::string_view word, BpeScratch& scratch) const {
  auto& symbols = scratch.symbols_;
  symbols.clear();
  const auto add = [&](int32_t id) {
    const auto position = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, position - 1, position + 1});
  };
  bool pending_unk = false;
  const auto add_unknown = [&](std::string_view bytes) {
    if (options_.byte_fallback &&
        std::ranges::all_of(bytes, [&](char c) { return fallback_ids_[static_cast<uint8_t>(c)] >= 0; })) {
      // As in the reference, an unknown character before these bytes comes out after them.
      for (const char c : bytes) add(fallback_ids_[static_cast<uint8_t>(c)]);
    } else if (unk_id_) {
      if (pending_unk && !options_.fuse_unk) add(*unk_id_);
      pending_unk = true;
    }
  };
  const auto add_known = [&](int32_t id) {
    if (pending_unk) add(*unk_id_);
    pending_unk = false;
    add(id);
  };
  const bool affixes = !options_.continuing_subword_prefix.empty() || !options_.end_of_word_suffix.empty();
  std::string_view text = word;
  if (options_.byte_level && (affixes || options_.byte_fallback)) {
    scratch.text_ = to_byte_level(word);
    text = scratch.text_;
  } else if (options_.byte_level) {
    for (const char c : word) {
      const int32_t id = byte_ids_[static_cast<uint8_t>(c)];
      if (id >= 0) {
        add_known(id);
      } else {
        add_unknown({});
      }
    }
    text = {};
  }
  std::string spelled;
  for (size_t at = 0; at < text.size();) {
    const size_t size = utf8_step(text, at).size;
    std::string_view character = text.substr(at, size);
    if (affixes) {
      spelled.clear();
      if (at > 0) spelled += options_.continuing_subword_prefix;
      spelled += character;
      if (at + size == text.size()) spelled += options_.end_of_word_suffix;
      character = spelled;
    }
    if (const std::optional<int32_t> id = vocabulary_.find(character)) {
      add_known(*id);
    } else {
      add_unknown(character);
    }
    at += size;
  }
  if (pending_unk) add(*unk_id_);
  if (!symbols.empty()) symbols.back().next = -1;
}

namespace {

// A binary heap's order: the lowest rank first, then the leftmost.
constexpr auto kLater = [](const auto& a, const auto& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
};

}  // namespace

void Bpe::push_candidate(BpeScratch& scratch, int32_t position) const {
  const BpeScratch::Symbol& left = scratch.symbols_[position];
  if (left.next < 0) return;
  if (const MergeTable::Merge* merge = merges_.find(left.id, scratch.symbols_[left.next].id)) {
    scratch.queue_.push_back({merge->rank, position, merge->id});
  }
}

void Bpe::merge_symbols(BpeScratch& scratch) const {
  auto& symbols = scratch.symbols_;
  auto& queue = scratch.queue_;
  queue.clear();
  for (size_t i = 0; i + 1 < symbols.size(); ++i) push_candidate(scratch, static_cast<int32_t>(i));
  std::ranges::make_heap(queue, kLater);
  const auto push = [&](int32_t position) {
    const size_t before = queue.size();
    push_candidate(scratch, position);
    if (queue.size() > before) std::ranges::push_heap(queue, kLater);
  };
  while (!queue.empty()) {
    std::ranges::pop_heap(queue, kLater);
    const BpeScratch::Candidate best = queue.back();
    queue.pop_back();
    BpeScratch::Symbol& left = symbols[best.position];
    if (left.id < 0 || left.next < 0) continue;
    BpeScratch::Symbol& right = symbols[left.next];
    // The pair may have changed since it was queued.
    const MergeTable::Merge* merge = merges_.find(left.id, right.id);
    if (!merge || merge->id != best.id) continue;
    left.id = best.id;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[left.next].previous = best.position;
    if (left.previous >= 0) push(left.previous);
    push(best.position);
  }
}

}  // namespace autoglm::tokenizer
