#pragma once
/// Pass: one compression method seen by the pipeline. Methods know nothing of files, of calibration text, or of one another.
#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compress/calibrate/statistics.h"
#include "compress/model/block.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/quant_scheme.h"
#include "core/format/quantized_weight.h"

namespace autoglm::pass {

/// One linear the recipe wants quantized, with what calibration saw of its input.
struct Target {
  model::Linear* linear = nullptr;             ///< its `weight` is replaced by the dequantized result
  format::QuantScheme scheme;
  const calibrate::InputStatistics* input = nullptr;   ///< null for methods that need none
  std::optional<format::QuantizedWeight> result;       ///< filled by the pass
};

/// What the report says of one tensor after a pass.
struct TensorReport {
  std::string name, method, scheme;
  double mse = 0, cosine = 1;        ///< dequantized against the weight as it was before the pass
  double output_error = 0;           ///< ||X (W - Q)^T||^2 / ||X W^T||^2 where inputs were seen, else 0
  std::string note;                  ///< damping raised, dead columns, ...
};

class Pass {
 public:
  virtual ~Pass() = default;
  virtual std::string_view name() const = 0;

  /// What must have been collected of each linear's input before `run`.
  virtual calibrate::Needs needs() const { return {}; }

  /// Quantizes the linears of one stage (they share an input or run side by side). The block's weights may be changed.
  virtual Result<std::vector<TensorReport>> run(std::vector<Target>& stage, CancelToken& cancel) = 0;

  /// Bytes of working memory for a weight [rows, cols], beyond the weight and its statistics (for memory plans).
  virtual int64_t working_bytes(int64_t rows, int64_t cols) const = 0;
};

}  // namespace autoglm::pass
