#pragma once
/// Pass: one compression method seen by the pipeline. Methods know nothing of files, of calibration text, or of one
/// another.
#include <ATen/core/Tensor.h>

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "compress/calibrate/statistics.h"
#include "compress/pass/scheme.h"
#include "compress/tensor/rounding_error.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/quantized_weight.h"

namespace autoglm::pass {

/// A weight stored in another float type: little-endian elements, row by row.
struct CastWeight {
  format::DType dtype = format::DType::kBF16;
  std::vector<std::byte> bytes;
};

/// One weight [rows, cols] that the recipe wants changed, with what calibration saw of its input. The weight is read in
/// pieces, so that a method never needs all of it as floats: an embedding of a 9 B model would take 2.5 GB.
struct Target {
  std::string name;  ///< of the module as it will be written, for messages
  int64_t rows = 0, cols = 0;
  Scheme scheme;                                     ///< group_size divides cols
  format::DType scale_dtype = format::DType::kBF16;  ///< what scales are stored as

  /// Rows [first, first + count) as a contiguous float32 CPU tensor; may be a view of the model: never write to it.
  std::function<Result<at::Tensor>(int64_t first, int64_t count)> read;

  /// Shared by the targets of a stage that have one input; null for methods that need none.
  calibrate::InputStatistics* input = nullptr;

  float input_scale = 0;  ///< of activations whose scale is found by calibration, as stored; else 0

  // Filled by the pass.
  std::variant<std::monostate, format::QuantizedWeight, CastWeight> result;
  std::optional<tensor::RoundingError> error;  ///< of a pass that had all of weight and result at hand anyway
  std::string note;                            ///< damping raised, dead columns, ... for the report
};

/// Calls `body(first_row, rows)` over pieces of at most `bytes` of float32, in order, looking at `cancel` between them.
Status for_each_piece(const Target& target, CancelToken& cancel,
                      const std::function<Status(int64_t first, const at::Tensor& rows)>& body,
                      int64_t bytes = 32 << 20);

/// The same with several pieces at once, each on a thread that reads it, works on it and takes the next one: `body` and
/// `target.read` are called on all of them. A body touches its own rows alone and starts no threads. Of failures, that
/// of the first rows is returned.
Status for_each_piece_at_once(const Target& target, CancelToken& cancel,
                              const std::function<Status(int64_t first, const at::Tensor& rows)>& body, int64_t bytes);

/// Bytes of one such piece of a weight with `cols` columns.
int64_t piece_bytes(int64_t rows, int64_t cols, int64_t bytes = 32 << 20);

class Pass {
 public:
  virtual ~Pass() = default;
  virtual std::string_view name() const = 0;

  /// What must have been collected of each target's input before `run`.
  virtual calibrate::Needs needs() const { return {}; }

  /// Fills `result` of the targets of one stage: they share an input or run side by side (experts). Deterministic for
  /// one number of threads. Throws c10::Error (guarded by the pipeline).
  virtual Status run(std::vector<Target*>& stage, CancelToken& cancel) = 0;

  /// Bytes of working memory for a weight [rows, cols], beyond the weight, its statistics and its result.
  virtual int64_t working_bytes(int64_t rows, int64_t cols) const = 0;

  /// Floating-point operations per weight [rows, cols], for time estimates.
  virtual double flops(int64_t rows, int64_t cols) const = 0;
};

}  // namespace autoglm::pass
