// The quantization_config of config.json: parsing, targets, writing.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/format/json.h"
#include "core/format/quant_scheme.h"
#include "tests/fuzz/require.h"

using namespace autoglm::format;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto json = parse_json({reinterpret_cast<const char*>(data), size});
  if (!json.ok()) return 0;
  const auto config = QuantConfig::parse(*json);
  if (!config.ok()) {
    require(!config.status().message().empty() && config.status().message().find('\n') == std::string::npos);
    return 0;
  }
  for (const std::string_view name :
       {"lm_head", "model.layers.0.self_attn.q_proj", "model.layers.11.mlp.experts.3.down_proj"}) {
    for (const std::string_view type : {"Linear", "Embedding"}) {
      const QuantScheme* scheme = config->scheme_for(name, type);
      if (scheme == nullptr) continue;
      require(scheme->weights.has_value());
      const QuantArgs& weights = *scheme->weights;
      require(weights.num_bits >= 1 && weights.num_bits <= 8 && !weights.dynamic);
      require((weights.strategy == Strategy::kGroup) == (weights.group_size > 0));
      require(weights.groups(128) >= 1);
      require(config->format_of(*scheme) != kMixedPrecision);
    }
  }
  const auto written = config->to_json();
  const auto again = QuantConfig::parse(written);
  require(again.ok() && again->config_groups == config->config_groups && again->to_json() == written);
  return 0;
}
