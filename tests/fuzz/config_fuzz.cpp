// config.json: ModelConfig, the rotary frequencies and the tensor layout that follow from it.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/format/model_config.h"
#include "core/format/rope.h"
#include "core/format/tensor_layout.h"
#include "tests/fuzz/require.h"

using namespace autoglm::format;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config = ModelConfig::parse({reinterpret_cast<const char*>(data), size});
  if (!config.ok()) {
    require(!config.status().message().empty());
    require(config.status().message().find('\n') == std::string::npos);
    return 0;
  }
  // What was accepted is whole: its frequencies are numbers, its layout can be built, and what we would write of it
  // reads as the same model.
  for (const int64_t length : {int64_t{0}, config->max_position_embeddings, int64_t{1} << 40}) {
    for (const double f : rope_inverse_frequencies(*config, length)) require(std::isfinite(f) && f >= 0);
  }
  require(std::isfinite(rope_attention_scaling(*config)));
  if (config->num_hidden_layers * (config->n_routed_experts + 1) < 20'000) {
    const TensorLayout layout = TensorLayout::describe(*config);
    require(layout.modules().size() > static_cast<size_t>(config->num_hidden_layers));
    for (const ModuleSpec& module : layout.modules()) {
      const auto count = element_count(module.shape);
      require(count.has_value() && *count > 0);
    }
  }
  const ModelConfig written = config->as_transformers();
  const auto again = ModelConfig::parse(written.raw.dump());
  require(again.ok() && again->describe() == written.describe());
  return 0;
}
