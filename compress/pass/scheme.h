#pragma once
/// Scheme: how one weight is to be stored, as a person writes it: "int4", "int4-g32-asym", "w8a8", "bf16".
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/format/dtype.h"
#include "core/format/quant_scheme.h"

namespace autoglm::pass {

/// How the scale of a group is found: the smallest one that clips nothing, or the one with the least squared error.
enum class ScaleSearch { kMinMax, kMse };

/// A word of parts joined by '-'. The first is the kind:
///   int2..int8   weight-only integers (int4 and below: groups of 128; above: one scale per output channel)
///   w8a8         8-bit weights per channel and 8-bit activations, one scale per token found at run time
///   fp16, bf16, fp32   stored in that float type
/// and the others, for integers, in any order:
///   g<N> | channel | tensor     the scope of a scale
///   asym | sym                  with or without zero points
///   restricted                  symmetric without the lowest value (-127..127)
///   minmax | mse                the scale search
///   static                      of w8a8: one scale for all activations of a layer, found by calibration (observer.h)
struct Scheme {
  std::optional<format::DType> cast;  ///< a float type; the members below are then unused
  format::QuantArgs weights;
  std::optional<format::QuantArgs> activations;  ///< of the input
  bool group_size_given = false;                 ///< the word named it: refused, not adapted, where it does not divide
  bool restricted = false;
  ScaleSearch search = ScaleSearch::kMse;

  /// kInvalidArgument: unknown word (with the nearest known one), a contradiction, a bad group size.
  static Result<Scheme> parse(std::string_view word);

  /// The shortest word that parses to this scheme.
  std::string to_string() const;

  /// compressed-tensors' name for the layout: "pack-quantized" or "int-quantized"; "" for a float type.
  std::string_view format() const;

  /// What a reader of the files must know of it; the search and the like are forgotten.
  format::QuantScheme stored() const;

  /// Whether the input's scale is found by calibration.
  bool calibrates_input() const { return activations && !activations->dynamic; }

  /// The default group size shrinks to the largest power of two that divides `cols`. kInvalidArgument: one that was
  /// asked for does not divide; none of at least 8 does.
  Status fit_group_size(int64_t cols);

  /// Integers that may be stored: q_min (or q_min + 1 when restricted) to q_max.
  int q_min() const { return weights.q_min() + (restricted ? 1 : 0); }
  int q_max() const { return weights.q_max(); }

  bool operator==(const Scheme&) const = default;
};

}  // namespace autoglm::pass
