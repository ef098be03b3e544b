#pragma once
/// KvCache: memory for the keys and values of all sequences, in pages.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/base/status.h"
#include "runtime/engine/page_pool.h"
#include "runtime/kernels/kernels.h"

namespace autoglm::engine {

/// A page holds `layout.page_tokens` tokens of every layer, layer after layer. Memory is asked for at once and becomes
/// resident page by page as it is first written. Move-only; not thread-safe.
class KvCache {
 public:
  /// kResourceExhausted: the system refuses the memory.
  static Result<KvCache> create(const kernels::KvLayout& layout, int64_t layers, int64_t pages);

  /// Bytes of one page in all layers; 0 when they do not fit in int64_t.
  static int64_t page_bytes(const kernels::KvLayout& layout, int64_t layers);

  PagePool& pool() { return pool_; }
  const PagePool& pool() const { return pool_; }
  const kernels::KvLayout& layout() const { return layout_; }
  int64_t bytes() const { return static_cast<int64_t>(memory_.get_deleter().size); }
  std::byte* page(int32_t id) const { return memory_.get() + id * page_bytes_; }

 private:
  struct Unmap {
    size_t size;
    void operator()(std::byte* memory) const;
  };
  KvCache(const kernels::KvLayout& layout, int64_t page_bytes, int64_t pages)
      : layout_(layout), page_bytes_(page_bytes), pool_(pages, layout.page_tokens) {}

  kernels::KvLayout layout_;
  int64_t page_bytes_;
  PagePool pool_;
  std::unique_ptr<std::byte, Unmap> memory_ = {nullptr, Unmap{0}};
};

}  // namespace autoglm::engine
