#include "runtime/engine/page_pool.h"

#include <algorithm>
#include <cassert>

namespace autoglm::engine {

PagePool::PagePool(int64_t pages, int64_t page_tokens)
    : page_tokens_(page_tokens), pages_(static_cast<size_t>(pages)), unused_(static_cast<size_t>(pages)) {
  for (size_t i = 0; i < unused_.size(); ++i) {
    unused_[i] = static_cast<int32_t>(unused_.size() - 1 - i);
    pages_[i].id = pages_[i].place.insert(pages_[i].place.end(), static_cast<int32_t>(i));
  }
}

/// FNV-1a over the words of the key.
size_t PagePool::Hash::operator()(const Key& key) const {
  uint64_t hash = 14695981039346656037ULL ^ key.before;
  for (const int32_t token : key.tokens) hash = (hash ^ static_cast<uint32_t>(token)) * 1099511628211ULL;
  return hash;
}

void PagePool::forget(Page& page) {
  known_.erase(page.key);
  page.serial = 0;
  page.key = {};
}

int32_t PagePool::acquire() {
  int32_t id = -1;
  if (!unused_.empty()) {
    id = unused_.back();
    unused_.pop_back();
  } else if (!idle_.empty()) {
    id = idle_.front();
    Page& page = pages_[static_cast<size_t>(id)];
    page.place.splice(page.place.end(), idle_, page.id);
    forget(page);
  } else {
    return -1;
  }
  pages_[static_cast<size_t>(id)].holders = 1;
  return id;
}

void PagePool::share(int32_t id) {
  Page& page = pages_[static_cast<size_t>(id)];
  if (page.holders++ == 0) page.place.splice(page.place.end(), idle_, page.id);
}

void PagePool::release(int32_t id) {
  Page& page = pages_[static_cast<size_t>(id)];
  assert(page.holders > 0);
  if (--page.holders > 0) return;
  if (page.serial == 0) {
    unused_.push_back(id);
  } else {
    idle_.splice(idle_.end(), page.place);
  }
}

std::vector<int32_t> PagePool::find_prefix(std::span<const int32_t> tokens) const {
  std::vector<int32_t> found;
  Key key;
  const auto step = static_cast<size_t>(page_tokens_);
  for (size_t at = 0; at + step <= tokens.size(); at += step) {
    key.tokens.assign(tokens.begin() + static_cast<std::ptrdiff_t>(at),
                      tokens.begin() + static_cast<std::ptrdiff_t>(at + step));
    const auto page = known_.find(key);
    if (page == known_.end()) break;
    found.push_back(page->second);
    key.before = pages_[static_cast<size_t>(page->second)].serial;
  }
  return found;
}

int64_t PagePool::idle(std::span<const int32_t> pages) const {
  return std::count_if(pages.begin(), pages.end(),
                       [&](int32_t id) { return pages_[static_cast<size_t>(id)].holders == 0; });
}

void PagePool::publish(int32_t id, int32_t before, std::span<const int32_t> tokens) {
  Page& page = pages_[static_cast<size_t>(id)];
  assert(page.holders > 0 && static_cast<int64_t>(tokens.size()) == page_tokens_);
  if (page.serial != 0) return;
  // A page behind one that stayed unknown (its equal was known already) could be found through neither: leave it.
  const uint64_t serial_before = before < 0 ? 0 : pages_[static_cast<size_t>(before)].serial;
  if (before >= 0 && serial_before == 0) return;
  Key key = {serial_before, {tokens.begin(), tokens.end()}};
  if (!known_.emplace(key, id).second) return;
  page.serial = ++last_serial_;
  page.key = std::move(key);
}

}  // namespace autoglm::engine
