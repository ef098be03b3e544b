#pragma once
/// PagePool: which pages of the KV cache belong to which sequence, and which hold a prefix that another may share.
///
/// A page holds the keys and values of `page_tokens` consecutive tokens, in all layers. A full page is known by what
/// led to it (the page before it, and its tokens), so that a sequence that starts alike finds it. Pages that no
/// sequence holds stay known until they are needed for something else, the longest unused first.
#include <cstdint>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

namespace autoglm::engine {

/// Counts pages; knows nothing of their bytes. Not thread-safe.
class PagePool {
 public:
  PagePool(int64_t pages, int64_t page_tokens);

  int64_t page_tokens() const { return page_tokens_; }
  int64_t pages() const { return static_cast<int64_t>(pages_.size()); }
  /// Pages that a sequence may still get: unused ones, and known ones that no sequence holds.
  int64_t available() const { return static_cast<int64_t>(unused_.size() + idle_.size()); }
  /// Pages for `tokens` tokens.
  int64_t pages_for(int64_t tokens) const { return (tokens + page_tokens_ - 1) / page_tokens_; }

  /// A page for one holder; -1 when none is available.
  int32_t acquire();
  /// Another holder of a page.
  void share(int32_t page);
  /// One holder less. Allocates nothing, so that what ends for want of memory can be let go.
  void release(int32_t page);

  /// The known pages that hold the beginning of `tokens`, in order; the caller shares those it takes.
  std::vector<int32_t> find_prefix(std::span<const int32_t> tokens) const;
  /// How many of `pages` no sequence holds: sharing them makes that many fewer available.
  int64_t idle(std::span<const int32_t> pages) const;
  /// Makes a full page known: `tokens` are its own, `before` is the page that precedes it (-1: it is the first).
  /// Nothing happens when an equal one is known already.
  void publish(int32_t page, int32_t before, std::span<const int32_t> tokens);

 private:
  /// What a page holds: the serial of the page before it and its own tokens. A serial is never used twice, so a page
  /// whose predecessor was reused cannot be found by mistake.
  struct Key {
    uint64_t before = 0;
    std::vector<int32_t> tokens;
    bool operator==(const Key&) const = default;
  };
  struct Hash {
    size_t operator()(const Key& key) const;
  };
  struct Page {
    int64_t holders = 0;
    uint64_t serial = 0;  ///< 0: not known
    Key key;
    std::list<int32_t> place;  ///< its id, which moves into idle_ while it is known and has no holder
    std::list<int32_t>::iterator id;
  };
  void forget(Page& page);

  int64_t page_tokens_;
  std::vector<Page> pages_;
  std::vector<int32_t> unused_;  ///< a stack
  std::list<int32_t> idle_;      ///< known pages without holder, the longest unused first
  std::unordered_map<Key, int32_t, Hash> known_;
  uint64_t last_serial_ = 0;
};

}  // namespace autoglm::engine
