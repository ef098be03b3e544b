// packed.json of a packed folder, with a checksum that fits it, over the weights of a small model: what opens is run.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/sha256.h"
#include "core/format/shard_writer.h"
#include "runtime/engine/engine.h"
#include "tests/fuzz/require.h"
#include "tests/fuzz/scratch.h"

using namespace autoglm;

namespace {

constexpr std::string_view kConfig =
    R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32,
  "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
  "vocab_size": 64, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
  "tie_word_embeddings": false, "quantization_config": {"quant_method": "autoglm-packed"}})";

/// The first modules of the seed's matrices, with their rows.
constexpr std::pair<std::string_view, int64_t> kMatrices[] = {{"model.embed_tokens", 64},
                                                              {"model.layers.0.self_attn.q_proj", 64},
                                                              {"model.layers.0.self_attn.o_proj", 32},
                                                              {"model.layers.0.mlp.gate_proj", 128},
                                                              {"model.layers.0.mlp.down_proj", 32},
                                                              {"lm_head", 64}};

std::vector<std::byte> random_bytes(size_t size) {
  static std::mt19937 random(1);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

/// The tensors beside packed.json, as the seed has them: int4 in groups of 32 with scales of 16 bits.
std::vector<format::StoredTensor> make_tensors() {
  std::vector<format::StoredTensor> tensors;
  for (const auto& [module, rows] : kMatrices) {
    const kernels::PackedShape shape{.type = kernels::WeightType::kQuantized,
                                     .rows = rows,
                                     .cols = module.find("down") == module.npos ? 32 : 64,
                                     .bits = 4,
                                     .group_cols = 32,
                                     .scale_type = kernels::ScaleType::kF16};
    const int64_t size = (*shape.bytes() + 63) / 64 * 64;
    tensors.push_back(
        {std::string(module) + ".packed", format::DType::kU8, {size}, random_bytes(static_cast<size_t>(size))});
  }
  const std::vector<float> ones(32, 1.0F);
  const auto bytes = std::as_bytes(std::span(ones));
  for (const char* norm : {"model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm", "model.norm"}) {
    tensors.push_back({std::string(norm) + ".weight", format::DType::kF32, {32}, {bytes.begin(), bytes.end()}});
  }
  return tensors;
}

format::StoredTensor text_tensor(std::string name, std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {std::move(name), format::DType::kU8, {std::ssize(text)}, {bytes.begin(), bytes.end()}};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::vector<format::StoredTensor> weights = make_tensors();
  static const std::filesystem::path folder =
      fuzz::scratch_file("config.json", reinterpret_cast<const uint8_t*>(kConfig.data()), kConfig.size()).parent_path();

  const std::string_view text(reinterpret_cast<const char*>(data), size);
  std::vector<format::StoredTensor> tensors = weights;
  tensors.push_back(text_tensor("packed.json", text));
  tensors.push_back(text_tensor("packed.sha256", sha256(text)));
  std::filesystem::remove(folder / "model.safetensors");
  require(format::write_tensors(folder / "model.safetensors", tensors).ok());

  const auto engine = engine::Engine::create(folder, nullptr, {.threads = 1});
  if (!engine.ok()) {
    require(!engine.status().message().empty() && engine.status().message().find('\n') == std::string::npos);
    return 0;
  }
  const std::vector<int32_t> tokens = {1, 63, 0};
  const auto hidden = (*engine)->hidden_states(tokens);
  require(hidden.ok() && hidden->size() == tokens.size() * 32);
  std::vector<float> logits(tokens.size() * 64);
  require((*engine)->logits(*hidden, logits).ok());
  return 0;
}
