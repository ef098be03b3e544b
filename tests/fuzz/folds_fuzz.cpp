// folds.st: the scales that were folded in an artifact, taken out of weights again.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/format/folds.h"
#include "tests/fuzz/require.h"
#include "tests/fuzz/scratch.h"

using namespace autoglm;
using namespace autoglm::format;

namespace {

// Two query heads read one key-value head.
constexpr const char* kConfig = R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 16,
  "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
  "head_dim": 4, "max_position_embeddings": 32, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
  "tie_word_embeddings": false})";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const ModelConfig config = ModelConfig::parse(kConfig).value();
  static const TensorLayout layout = TensorLayout::describe(config);
  const auto path = fuzz::scratch_file(Folds::kFile, data, size);
  const auto folds = Folds::read(path.parent_path(), layout, config);
  if (!folds.ok()) {
    require(!folds.status().message().empty() && folds.status().message().find('\n') == std::string::npos);
    return 0;
  }
  for (const ModuleSpec& module : layout.modules()) {
    const int64_t cols = module.shape.size() == 2 ? module.shape[1] : 1;
    std::vector<float> rows(static_cast<size_t>(module.shape[0] * cols), 1.0F);
    folds->apply(module.name, 0, cols, rows);
    require(folds->changes(module.name) || std::all_of(rows.begin(), rows.end(), [](float x) { return x == 1.0F; }));
    require(std::none_of(rows.begin(), rows.end(), [](float x) { return std::isnan(x) || x < 0; }));
    folds->undo(module.name, module.shape[0] - 1, cols, {rows.data(), static_cast<size_t>(cols)});
  }
  return 0;
}
