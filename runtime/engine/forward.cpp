#include "runtime/engine/forward.h"

#include <algorithm>
#include <cmath>

#include "runtime/engine/router.h"
#include "runtime/kernels/attention.h"

namespace autoglm::engine {
namespace {

/// Rows narrower than this in all are not worth waking threads for.
constexpr int64_t kParallelElements = 1 << 15;

/// Makes room for `size` values; what was there is lost.
float* room(std::vector<float>& buffer, int64_t size) {
  if (buffer.size() < static_cast<size_t>(size)) buffer.resize(static_cast<size_t>(size));
  return buffer.data();
}

int64_t rows_of(const std::vector<Linear>& linears) {
  int64_t rows = 0;
  for (const Linear& linear : linears) rows += linear.weight.rows();
  return rows;
}

/// What quantizing one token x [n] to integers and back makes of it, as compressed-tensors computes it
/// (quantization/utils/helpers.py, calculate_qparams; lifecycle/forward_helpers.py, _quantize_dequantize).
void fake_quantize(const float* x, int64_t n, const format::InputQuant& quant, float* out) {
  const auto q_min = static_cast<float>(quant.args.q_min()), q_max = static_cast<float>(quant.args.q_max());
  float scale = quant.scale, zero = quant.zero_point;
  if (quant.args.dynamic) {
    float low = 0, high = 0;  // zero must be representable
    for (int64_t i = 0; i < n; ++i) low = std::min(low, x[i]), high = std::max(high, x[i]);
    const float range = q_max - q_min;
    scale = quant.args.symmetric ? std::max(-low, high) / (range / 2) : (high - low) / range;
    if (scale == 0) scale = 0x1p-23F;
    zero = quant.args.symmetric ? 0 : std::nearbyint(std::clamp(q_min - low / scale, q_min, q_max));
  }
  for (int64_t i = 0; i < n; ++i) {
    const float rounded = (std::nearbyint(std::clamp(x[i] / scale + zero, q_min, q_max)) - zero) * scale;
    out[i] = std::isfinite(x[i]) ? rounded : NAN;  // what is no number does not become one
  }
}

/// Whether the int8 kernels compute exactly what the artifact asks for.
bool is_int8(const Linear& linear) {
  return linear.weight.is_quantized() && linear.input && linear.input->args.symmetric &&
         linear.input->args.num_bits == 8;
}

}  // namespace

Forward::Forward(const Model& model, KvCache& cache, const kernels::Kernels& kernels, kernels::ThreadPool& pool,
                 kernels::Compute compute)
    : model_(model),
      config_(model.config()),
      cache_(cache),
      kernels_(kernels),
      pool_(pool),
      compute_(compute),
      linear_(kernels, pool),
      qkv_width_((config_.num_attention_heads + 2 * config_.num_key_value_heads) * config_.head_dim) {}

int64_t Forward::workspace_bytes(const format::ModelConfig& c, int64_t tokens, int64_t rows, int threads) {
  const int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  const bool moe = c.n_routed_experts > 0;
  const int64_t experts = moe ? c.num_experts_per_tok : 0;
  const int64_t width =
      std::max({c.intermediate_size, c.moe_intermediate_size * std::max<int64_t>(1, c.n_shared_experts),
                c.moe_intermediate_size * experts});
  const int64_t floats =
      4 * c.hidden_size + 2 * q + 2 * kv + 3 * width + 2 * experts * c.hidden_size + c.n_routed_experts + c.rotary_dim;
  // Inputs moved apart, and copies of them in int8 or split, up to whole tiles; of experts those of all their tokens.
  const int64_t widest = std::max({c.hidden_size, q, width});
  const int64_t routed = tokens * experts;
  const int64_t filled_up = routed + kernels::kTileTokens * std::min(c.n_routed_experts, routed);
  const int64_t copies = std::max((2 * tokens + kernels::kTileTokens) * widest,
                                  (routed + filled_up) * std::max(c.hidden_size, c.moe_intermediate_size));
  return (tokens * floats + copies + threads * widest + rows * (c.vocab_size + c.hidden_size)) * 4;
}

template <typename Body>
void Forward::for_rows(int64_t rows, int64_t width, const Body& body) {
  if (rows * width < kParallelElements) return body(0, rows);
  pool_.parallel_for(rows, [&](int64_t begin, int64_t end, int) { body(begin, end); });
}

void Forward::project(std::span<const Job> jobs) {
  std::vector<kernels::LinearCall> calls;
  std::vector<float> input;  // fake-quantized
  kernels::Compute compute = compute_;
  float scale = 0;
  const auto flush = [&] {
    if (!calls.empty()) linear_.run(calls, compute, scale);
    calls.clear();
  };
  for (const Job& job : jobs) {
    if (job.m == 0) continue;
    int64_t offset = 0;
    for (const Linear& linear : *job.linears) {
      const bool int8 = is_int8(linear), fake = linear.input && !int8;
      const kernels::Compute wanted = fake ? kernels::Compute::kFloat : int8 ? kernels::Compute::kInt8 : compute_;
      const float wanted_scale = int8 ? linear.input->scale : 0;
      if (wanted != compute || wanted_scale != scale) flush();
      compute = wanted;
      scale = wanted_scale;
      kernels::LinearCall call = {.weight = &linear.weight,
                                  .x = job.x,
                                  .x_stride = job.x_stride,
                                  .m = job.m,
                                  .bias = linear.bias.empty() ? nullptr : linear.bias.data(),
                                  .y = job.y + offset,
                                  .y_stride = job.y_stride};
      if (fake) {
        const int64_t n = linear.weight.cols();
        input.resize(static_cast<size_t>(job.m * n));
        for (int64_t t = 0; t < job.m; ++t) {
          fake_quantize(job.x + t * job.x_stride, n, *linear.input, input.data() + t * n);
        }
        call.x = input.data();
        call.x_stride = n;
      }
      calls.push_back(call);
      if (fake) flush();  // of such inputs there is one at a time
      offset += linear.weight.rows();
    }
  }
  flush();
}

void Forward::project(const std::vector<Linear>& linears, const float* x, int64_t m, float* y) {
  const Job job = {&linears, x, linears.front().weight.cols(), m, y, rows_of(linears)};
  project({&job, 1});
}

void Forward::norm(const float* x, const std::vector<float>& weight, int64_t m, float* y) {
  const auto n = static_cast<int64_t>(weight.size());
  for_rows(m, n, [&](int64_t begin, int64_t end) {
    kernels_.rms_norm(x + begin * n, n, weight.data(), static_cast<float>(config_.rms_norm_eps), end - begin, n,
                      y + begin * n, n);
  });
}

/// Over each head of rows that are qkv_width_ apart.
void Forward::norm_heads(float* x, int64_t heads, const std::vector<float>& weight, int64_t m) {
  if (weight.empty()) return;
  const int64_t n = config_.head_dim;
  for_rows(m, heads * n, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* row = x + t * qkv_width_;
      kernels_.rms_norm(row, n, weight.data(), static_cast<float>(config_.rms_norm_eps), heads, n, row, n);
    }
  });
}

void Forward::rotate(float* x, int64_t heads, int64_t m) {
  const int64_t pairs = model_.rotary().pairs();
  for_rows(m, heads * config_.head_dim, [&](int64_t begin, int64_t end) {
    kernels_.rotary({.x = x + begin * qkv_width_,
                     .stride = qkv_width_,
                     .tokens = end - begin,
                     .heads = heads,
                     .head_dim = config_.head_dim,
                     .pairs = pairs,
                     .cos = cos_.data() + begin * pairs,
                     .sin = sin_.data() + begin * pairs,
                     .interleaved = config_.rotary_layout == format::RotaryLayout::kInterleaved});
  });
}

void Forward::add(const float* x, int64_t m, float* y) {
  const int64_t n = config_.hidden_size;
  for_rows(m, n, [&](int64_t begin, int64_t end) {
    kernels_.add_scaled(x + begin * n, 1, (end - begin) * n, y + begin * n);
  });
}

void Forward::gate(const float* gate_up, int64_t m, int64_t width, float* y) {
  for_rows(m, width, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* row = gate_up + 2 * t * width;
      kernels_.swiglu(row, row + width, width, y + t * width);
    }
  });
}

/// normed_ -> mixed_, through the cache.
void Forward::attend(const Block& block, int64_t layer, std::span<const TokenRun> runs, int64_t m) {
  const int64_t heads = config_.num_attention_heads, kv_heads = config_.num_key_value_heads, n = config_.head_dim;
  float* q = room(qkv_, m * qkv_width_);
  float* k = q + heads * n;
  float* attended = room(attended_, m * heads * n);
  project(block.qkv, normed_.data(), m, q);
  norm_heads(q, heads, block.q_norm, m);
  norm_heads(k, kv_heads, block.k_norm, m);
  rotate(q, heads, m);
  rotate(k, kv_heads, m);

  std::vector<kernels::AttentionCall> calls(runs.size());
  int64_t first = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    const auto tokens = static_cast<int64_t>(runs[i].tokens.size());
    calls[i] = {.kv = {cache_.layout(), pages_.data() + first_page_[i], layer * cache_.layout().bytes()},
                .q = q + first * qkv_width_,
                .k = k + first * qkv_width_,
                .v = k + first * qkv_width_ + kv_heads * n,
                .q_stride = qkv_width_,
                .kv_stride = qkv_width_,
                .out = attended + first * heads * n,
                .out_stride = heads * n,
                .heads = heads,
                .tokens = tokens,
                .first_position = runs[i].first_position,
                .scale = 1 / std::sqrt(static_cast<float>(n))};
    first += tokens;
  }
  kernels::attention(kernels_, pool_, calls);
  project(block.o, attended, m, mixed_.data());
}

void Forward::run_mlp(const Mlp& mlp, const float* x, int64_t m, float* y) {
  const int64_t width = mlp.down.front().weight.cols();
  float* gate_up = room(gate_up_, 2 * m * width);
  float* inner = room(inner_, m * width);
  project(mlp.gate_up, x, m, gate_up);
  gate(gate_up, m, width, inner);
  project(mlp.down, inner, m, y);
}

void Forward::run_moe(const Moe& moe, const float* x, int64_t m, float* y) {
  const int64_t n = config_.hidden_size, width = config_.moe_intermediate_size, each = config_.num_experts_per_tok;
  const auto experts = static_cast<int64_t>(moe.experts.size());
  float* scores = room(scores_, m * experts);
  project(moe.router, x, m, scores);
  std::vector<Choice> choices(static_cast<size_t>(m * each));
  std::vector<int64_t> first(static_cast<size_t>(experts) + 1);  // of each expert's tokens in `gathered`
  for (int64_t t = 0; t < m; ++t) {
    const std::span<Choice> chosen(choices.data() + t * each, static_cast<size_t>(each));
    route(config_, {scores + t * experts, static_cast<size_t>(experts)}, moe.correction, chosen);
    for (const Choice& one : chosen) ++first[static_cast<size_t>(one.expert) + 1];
  }
  for (size_t e = 0; e < moe.experts.size(); ++e) first[e + 1] += first[e];

  float* gathered = room(gathered_, m * each * n);
  float* out = room(expert_out_, m * each * n);
  float* gate_up = room(gate_up_, 2 * m * each * width);
  float* inner = room(inner_, m * each * width);
  std::vector<int64_t> next(first.begin(), first.end() - 1), place(choices.size());
  for (size_t i = 0; i < choices.size(); ++i) {
    place[i] = next[static_cast<size_t>(choices[i].expert)]++;
    std::copy_n(x + static_cast<int64_t>(i) / each * n, n, gathered + place[i] * n);
  }
  std::vector<Job> up, down;
  for (size_t e = 0; e < moe.experts.size(); ++e) {
    const int64_t from = first[e], load = first[e + 1] - from;
    const Mlp& expert = moe.experts[e];
    up.push_back({&expert.gate_up, gathered + from * n, n, load, gate_up + from * 2 * width, 2 * width});
    down.push_back({&expert.down, inner + from * width, width, load, out + from * n, n});
  }
  project(up);
  gate(gate_up, m * each, width, inner);
  project(down);

  if (moe.shared) {
    run_mlp(*moe.shared, x, m, y);
  } else {
    std::fill_n(y, m * n, 0.0F);
  }
  for (size_t i = 0; i < choices.size(); ++i) {
    kernels_.add_scaled(out + place[i] * n, choices[i].weight, n, y + static_cast<int64_t>(i) / each * n);
  }
}

Status Forward::run(std::span<const TokenRun> runs, Rows rows, std::span<float> hidden, const CancelToken* cancel) {
  const int64_t n = config_.hidden_size, pairs = model_.rotary().pairs();
  int64_t m = 0;
  pages_.clear();
  first_page_.clear();
  for (const TokenRun& run : runs) {
    first_page_.push_back(pages_.size());
    for (const int32_t page : run.pages) pages_.push_back(cache_.page(page));
    m += static_cast<int64_t>(run.tokens.size());
  }
  room(hidden_, m * n);
  room(normed_, m * n);
  room(mixed_, m * n);
  room(cos_, m * pairs);
  room(sin_, m * pairs);
  int64_t at = 0;
  for (const TokenRun& run : runs) {
    const auto tokens = static_cast<int64_t>(run.tokens.size());
    model_.rotary().fill(run.first_position, tokens, std::max(run.length, run.first_position + tokens),
                         cos_.data() + at * pairs, sin_.data() + at * pairs);
    for (const int32_t token : run.tokens) {
      const std::span<float> row(hidden_.data() + at++ * n, static_cast<size_t>(n));
      AUTOGLM_RETURN_IF_ERROR(model_.weights().embedding_row(token, row));
    }
  }

  for (size_t layer = 0; layer < model_.blocks().size(); ++layer) {
    if (cancel != nullptr) AUTOGLM_RETURN_IF_ERROR(cancel->check());
    const Block& block = model_.blocks()[layer];
    norm(hidden_.data(), block.input_norm, m, normed_.data());
    attend(block, static_cast<int64_t>(layer), runs, m);
    if (!block.post_attention_norm.empty()) norm(mixed_.data(), block.post_attention_norm, m, mixed_.data());
    add(mixed_.data(), m, hidden_.data());

    norm(hidden_.data(), block.mlp_norm, m, normed_.data());
    if (block.moe) {
      run_moe(*block.moe, normed_.data(), m, mixed_.data());
    } else {
      run_mlp(*block.mlp, normed_.data(), m, mixed_.data());
    }
    if (!block.post_mlp_norm.empty()) norm(mixed_.data(), block.post_mlp_norm, m, mixed_.data());
    add(mixed_.data(), m, hidden_.data());
  }

  if (rows == Rows::kAll) {
    std::copy_n(hidden_.data(), m * n, hidden.data());
    return ok_status();
  }
  int64_t last = -1;
  for (size_t i = 0; i < runs.size(); ++i) {
    last += static_cast<int64_t>(runs[i].tokens.size());
    std::copy_n(hidden_.data() + last * n, n, hidden.data() + static_cast<int64_t>(i) * n);
  }
  return ok_status();
}

void Forward::logits(const float* hidden, int64_t n, float* out) {
  float* normed = room(normed_, n * config_.hidden_size);
  norm(hidden, model_.final_norm(), n, normed);
  project(model_.head(), normed, n, out);
}

}  // namespace autoglm::engine
