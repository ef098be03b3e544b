#pragma once
/// QuantScheme: how tensors are quantized, in the words of compressed-tensors' `quantization_config`.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/status.h"
#include "core/format/dtype.h"

namespace autoglm::format {

/// Names of the storage formats this program reads and writes. "naive-quantized" is read as int-quantized.
inline constexpr std::string_view kPackQuantized = "pack-quantized";
inline constexpr std::string_view kIntQuantized = "int-quantized";
inline constexpr std::string_view kNaiveQuantized = "naive-quantized";
inline constexpr std::string_view kMixedPrecision = "mixed-precision";

enum class Strategy { kTensor, kChannel, kGroup, kToken };  ///< the scope of one scale
std::string_view to_string(Strategy strategy);

/// One side (weights or activations) of a scheme: integers of `num_bits`, real = (q - zero_point) * scale.
struct QuantArgs {
  int num_bits = 8;       ///< 1..8
  bool symmetric = true;  ///< zero_point is 0 and not stored
  Strategy strategy = Strategy::kChannel;
  int64_t group_size = 0;        ///< columns per scale, with Strategy::kGroup; 0 otherwise
  bool dynamic = false;          ///< activations: the scale is found at run time
  nlohmann::ordered_json extra;  ///< other members of the JSON object (actorder, observer), kept as read; null: none

  int q_min() const { return -(1 << (num_bits - 1)); }
  int q_max() const { return (1 << (num_bits - 1)) - 1; }
  /// Scales per row of a weight with `cols` columns (1 for channel; for tensor one in all, so also 1 column of one
  /// row).
  int64_t groups(int64_t cols) const { return strategy == Strategy::kGroup ? (cols + group_size - 1) / group_size : 1; }
  bool operator==(const QuantArgs&) const = default;
};

/// How the modules of `targets` are stored.
struct QuantScheme {
  std::vector<std::string> targets;  ///< class names ("Linear", "Embedding"), module names or "re:…" regexes
  std::optional<QuantArgs> weights;  ///< nothing: the targets stay float
  std::optional<QuantArgs> input_activations;
  std::string format;  ///< "pack-quantized", "int-quantized"; "" inherits the config's

  bool operator==(const QuantScheme&) const = default;
};
std::string describe(const QuantScheme& scheme);  ///< "INT4 g64 asymmetric", "INT8 channel, activations INT8 token"

/// compressed-tensors' quantization_config.
struct QuantConfig {
  std::vector<std::pair<std::string, QuantScheme>> config_groups;
  std::vector<std::string> ignore;
  std::string format = "pack-quantized";  ///< or "int-quantized", "mixed-precision"
  nlohmann::ordered_json extra;           ///< kv_cache_scheme, version, ... kept when unknown; null: none

  /// Reads the `quantization_config` object of config.json. kBadInput names the member: another quant_method (says
  /// which are read), a format or strategy this build cannot decode, bits out of range, a regex that does not compile.
  /// Preset groups ({"W4A16": ["Linear"]}) become schemes. With mixed-precision, every scheme of the result has a
  /// format.
  static Result<QuantConfig> parse(const nlohmann::ordered_json& json);

  /// What transformers and vLLM read. parse(to_json()) gives the same config.
  nlohmann::ordered_json to_json() const;

  /// The scheme of module `name` whose class is `type` ("Linear" or "Embedding"), by compressed-tensors' rules; nullptr
  /// when it is not quantized. What `ignore` names is not quantized; otherwise an equal name comes before a regex and a
  /// regex before a class; of several regexes the alphabetically first wins, of equal targets the last group.
  const QuantScheme* scheme_for(std::string_view name, std::string_view type) const;

  /// The format of a scheme of this config: its own, else the config's.
  const std::string& format_of(const QuantScheme& scheme) const {
    return scheme.format.empty() ? format : scheme.format;
  }

  bool operator==(const QuantConfig&) const = default;
};

}  // namespace autoglm::format
