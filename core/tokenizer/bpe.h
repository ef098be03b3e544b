#pragma once
/// Byte-pair encoding: a word becomes tokens by merging neighbours, the pair of lowest rank first.
/// Source: Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units" (2016), section 3.2.
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/tokenizer/vocabulary.h"

namespace autoglm::tokenizer {

/// Pairs to merge, in order of rank; the texts lie one after the other in one string.
class MergeList {
 public:
  void add(std::string_view left, std::string_view right) {
    texts_.append(left).append(right);
    ends_.push_back({texts_.size() - right.size(), texts_.size()});
  }
  size_t size() const { return ends_.size(); }
  std::string_view left(size_t rank) const { return slice(rank == 0 ? 0 : ends_[rank - 1].right, ends_[rank].left); }
  std::string_view right(size_t rank) const { return slice(ends_[rank].left, ends_[rank].right); }

 private:
  struct Ends {
    size_t left;
    size_t right;
  };
  std::string_view slice(size_t begin, size_t end) const { return std::string_view(texts_).substr(begin, end - begin); }
  std::string texts_;
  std::vector<Ends> ends_;
};

/// From a pair of ids to its rank and the id it becomes; open addressing.
class MergeTable {
 public:
  struct Merge {
    uint32_t rank;
    int32_t id;
  };
  /// A pair that is there already gets the new rank.
  void set(int32_t left, int32_t right, Merge merge);
  const Merge* find(int32_t left, int32_t right) const {
    if (slots_.empty()) return nullptr;
    const uint64_t key = key_of(left, right);
    for (size_t slot = slot_of(key);; slot = (slot + 1) & mask_) {
      if (slots_[slot].key == key) return &slots_[slot].merge;
      if (slots_[slot].key == kFree) return nullptr;
    }
  }

 private:
  static constexpr uint64_t kFree = UINT64_MAX;
  struct Slot {
    uint64_t key = kFree;
    Merge merge{};
  };
  static uint64_t key_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t slot_of(uint64_t key) const { return (key * 0x9e3779b97f4a7c15ULL >> 20) & mask_; }
  void grow();

  std::vector<Slot> slots_;
  size_t mask_ = 0;
  size_t count_ = 0;
};

struct BpeOptions {
  std::optional<std::string>
      unk_token;  ///< stands for characters that the vocabulary lacks; without it they are dropped
  std::string continuing_subword_prefix;  ///< before every character of a word but the first
  std::string end_of_word_suffix;         ///< after the last character of a word
  bool fuse_unk = false;                  ///< neighbouring unknown characters become one unk_token
  bool byte_fallback = false;             ///< unknown characters become <0xNN> tokens
  bool ignore_merges = false;             ///< a word that is a token is that token
  bool byte_level = false;                ///< words are bytes, the vocabulary is written in the byte-level alphabet
};

/// Buffers and a cache of short words. One per thread and Bpe.
class BpeScratch {
 private:
  friend class Bpe;
  struct Symbol {
    int32_t id;  // -1 once merged into its left neighbour
    int32_t previous;
    int32_t next;
  };
  struct Candidate {
    uint32_t rank;
    int32_t position;
    int32_t id;
  };
  static constexpr size_t kMaxKey = 27;
  static constexpr size_t kMaxIds = 8;
  struct CacheLine {  // 64 bytes: a word and its ids
    uint32_t hash = 0;
    uint8_t key_size = 0;  // 0 for a free line
    std::array<char, kMaxKey - 1> key{};
    uint8_t id_count = 0;
    std::array<int32_t, kMaxIds> ids{};
  };
  static constexpr size_t kCacheLines = 1 << 14;

  std::vector<Symbol> symbols_;
  std::vector<Candidate> queue_;
  std::vector<CacheLine> cache_;
  std::string text_;
};

/// A byte-pair encoder. Immutable; may be shared between threads.
class Bpe {
 public:
  /// kBadInput when a merge names tokens that the vocabulary lacks, or the unk_token is not in it.
  static Result<Bpe> create(Vocabulary vocabulary, const MergeList& merges, BpeOptions options);

  /// The same for a vocabulary whose ids are the ranks: any two neighbours that together are a token may merge.
  static Result<Bpe> from_ranks(Vocabulary vocabulary);

  /// Appends the tokens of one word; O(n log n) in its length.
  void encode(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& ids) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  Bpe(Vocabulary vocabulary, BpeOptions options);
  void find_seams(const MergeList& merges);
  void encode_part(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& ids) const;
  void encode_uncached(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& ids) const;
  void split_characters(std::string_view word, BpeScratch& scratch) const;
  void merge_symbols(BpeScratch& scratch) const;
  void push_candidate(BpeScratch& scratch, int32_t position) const;

  Vocabulary vocabulary_;
  MergeTable merges_;
  BpeOptions options_;
  std::optional<int32_t> unk_id_;
  // Models in sentencepiece's manner see whole texts as one word, with U+2581 for spaces. Where no merge can join a
  // U+2581 to the character before it, the text may be cut there: short words are faster and can be cached.
  bool has_seams_ = false;
  std::vector<char32_t> joined_before_space_;  // characters that a merge joins to a following U+2581; sorted
  std::array<int32_t, 256> byte_ids_{};        // byte level: the token of each byte, -1 for none
  std::array<int32_t, 256> fallback_ids_{};    // the token <0xNN> of each byte, -1 for none
};

}  // namespace autoglm::tokenizer
