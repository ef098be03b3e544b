#include "compress/model/generator.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "compress/tensor/bridge.h"
#include "core/base/memory.h"
#include "core/format/rope.h"

namespace autoglm::model {

/// Prompts of unequal lengths are padded on the left, so that all sequences end at the same place of the cache.
struct Generator::Impl {
  Decoder decoder;
  std::vector<Block> blocks;
  std::vector<LayerCache> caches;
  std::vector<int64_t> padding;  ///< of each sequence, in tokens
  int64_t length = 0;            ///< tokens in the cache, padding included
  Rotary rotary;

  Result<at::Tensor> run(const at::Tensor& ids, const CancelToken* cancel);
  void extend_rotary(int64_t needed);
};

namespace {

constexpr int64_t kFirstPositions = 512;

}  // namespace

void Generator::Impl::extend_rotary(int64_t needed) {
  const format::ModelConfig& config = decoder.config();
  const bool varies = !format::has_fixed_frequencies(config);
  if (needed <= rotary.length() && !varies) return;
  const int64_t capacity = varies ? needed : std::max({needed, kFirstPositions, 2 * rotary.length()});
  rotary = decoder.rotary(capacity);
}

Result<at::Tensor> Generator::Impl::run(const at::Tensor& ids, const CancelToken* cancel) {
  const at::NoGradGuard no_grad;
  const int64_t tokens = ids.size(1), total = length + tokens;
  const at::Device device = decoder.options().device;
  extend_rotary(total);

  ForwardOptions options;
  options.cancel = cancel;
  if (std::any_of(padding.begin(), padding.end(), [](int64_t pad) { return pad > 0; })) {
    const at::Tensor pad = at::tensor(padding, at::kLong).to(device).unsqueeze(1);
    options.key_padding = at::arange(total, at::TensorOptions().dtype(at::kLong).device(device)).unsqueeze(0) >= pad;
    options.positions =
        (at::arange(length, total, at::TensorOptions().dtype(at::kLong).device(device)).unsqueeze(0) - pad)
            .clamp_min_(0);
  }
  AUTOGLM_ASSIGN_OR_RETURN(at::Tensor hidden, decoder.embed(ids));
  for (size_t i = 0; i < blocks.size(); ++i) {
    options.cache = &caches[i];
    hidden = forward(decoder.config(), blocks[i], rotary, hidden, options);
    if (!hidden.defined()) return cancelled();
  }
  length = total;
  return decoder.logits(hidden.select(1, tokens - 1));
}

int64_t Generator::weight_bytes(const Decoder& decoder) {
  int64_t total = decoder.head_bytes();
  for (int64_t layer = 0; layer < decoder.config().num_hidden_layers; ++layer) total += decoder.block_bytes(layer);
  return total;
}

Result<Generator> Generator::create(const Decoder& decoder, int64_t max_bytes, const CancelToken* cancel) {
  return tensor::guarded([&]() -> Result<Generator> {
    const int64_t needed = weight_bytes(decoder);
    if (max_bytes > 0 && needed > max_bytes) {
      return resource_exhausted(fmt::format("generating needs the whole model in memory, {}, and the limit is {}",
                                            format_bytes(needed), format_bytes(max_bytes)));
    }
    auto impl = std::make_unique<Impl>(Impl{decoder});
    AUTOGLM_RETURN_IF_ERROR(impl->decoder.keep_head());
    for (int64_t layer = 0; layer < decoder.config().num_hidden_layers; ++layer) {
      AUTOGLM_ASSIGN_OR_RETURN(Block block, decoder.load_block(layer, cancel));
      impl->blocks.push_back(std::move(block));
    }
    return Generator(std::move(impl));
  });
}

Result<at::Tensor> Generator::prefill(const std::vector<std::vector<int32_t>>& prompts, const CancelToken* cancel) {
  return tensor::guarded([&]() -> Result<at::Tensor> {
    size_t longest = 0;
    for (size_t i = 0; i < prompts.size(); ++i) {
      if (prompts[i].empty())
        return invalid_argument(fmt::format("prompt {} is empty: there is nothing to continue", i));
      longest = std::max(longest, prompts[i].size());
    }
    if (prompts.empty()) return invalid_argument("there are no prompts to continue");
    impl_->caches.assign(impl_->blocks.size(), {});
    impl_->padding.clear();
    impl_->length = 0;
    const at::Tensor ids = at::zeros({static_cast<int64_t>(prompts.size()), static_cast<int64_t>(longest)}, at::kLong);
    auto* out = ids.data_ptr<int64_t>();
    for (const std::vector<int32_t>& prompt : prompts) {
      const size_t pad = longest - prompt.size();
      std::copy(prompt.begin(), prompt.end(), out + pad);
      impl_->padding.push_back(static_cast<int64_t>(pad));
      out += longest;
    }
    return impl_->run(ids, cancel);
  });
}

Result<at::Tensor> Generator::step(std::span<const int32_t> tokens, const CancelToken* cancel) {
  return tensor::guarded([&]() -> Result<at::Tensor> {
    if (impl_->length == 0 || tokens.size() != impl_->padding.size()) {
      return invalid_argument(
          fmt::format("a step wants one token for each of {} sequences, not {}", impl_->padding.size(), tokens.size()));
    }
    const std::vector<int64_t> ids(tokens.begin(), tokens.end());
    return impl_->run(at::tensor(ids, at::kLong).unsqueeze(1), cancel);
  });
}

Status Generator::keep(std::span<const int64_t> sequences) {
  return tensor::guarded([&]() -> Status {
    std::vector<int64_t> padding;
    for (const int64_t i : sequences) {
      if (i < 0 || i >= static_cast<int64_t>(impl_->padding.size())) {
        return invalid_argument(fmt::format("the batch has no sequence {}", i));
      }
      padding.push_back(impl_->padding[static_cast<size_t>(i)]);
    }
    const at::Tensor index = at::tensor(std::vector<int64_t>(sequences.begin(), sequences.end()), at::kLong)
                                 .to(impl_->decoder.options().device);
    for (LayerCache& cache : impl_->caches) {
      cache.keys = cache.keys.index_select(0, index);
      cache.values = cache.values.index_select(0, index);
    }
    impl_->padding = std::move(padding);
    return ok_status();
  });
}

const Decoder& Generator::decoder() const { return impl_->decoder; }
const std::vector<Block>& Generator::blocks() const { return impl_->blocks; }

Generator::Generator(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Generator::Generator(Generator&&) noexcept = default;
Generator& Generator::operator=(Generator&&) noexcept = default;
Generator::~Generator() = default;

}  // namespace autoglm::model
