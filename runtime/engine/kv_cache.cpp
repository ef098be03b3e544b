#include "runtime/engine/kv_cache.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include "core/base/memory.h"

namespace autoglm::engine {

void KvCache::Unmap::operator()(std::byte* memory) const { ::munmap(memory, size); }

int64_t KvCache::page_bytes(const kernels::KvLayout& layout, int64_t layers) {
  // Two of keys and values, 4 bytes at most each, and as many for scales: bounded before it is multiplied exactly.
  int64_t bound = 0;
  if (__builtin_mul_overflow(layout.kv_heads, layout.head_dim + 1, &bound) ||
      __builtin_mul_overflow(bound, layout.page_tokens * 16, &bound) || __builtin_mul_overflow(bound, layers, &bound)) {
    return 0;
  }
  return layers * layout.bytes();
}

Result<KvCache> KvCache::create(const kernels::KvLayout& layout, int64_t layers, int64_t pages) {
  const int64_t bytes_of_page = page_bytes(layout, layers);
  int64_t size = 0;
  if (bytes_of_page <= 0 || pages < 1 || pages > INT32_MAX || __builtin_mul_overflow(bytes_of_page, pages, &size)) {
    return resource_exhausted(fmt::format("no key-value cache of {} pages can be had", pages));
  }
  void* memory = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return resource_exhausted(fmt::format("no memory for a key-value cache of {}", format_bytes(size)));
  }
  KvCache cache(layout, bytes_of_page, pages);
  cache.memory_ = std::unique_ptr<std::byte, Unmap>(static_cast<std::byte*>(memory), Unmap{static_cast<size_t>(size)});
  return cache;
}

}  // namespace autoglm::engine
