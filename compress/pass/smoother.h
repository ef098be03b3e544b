#pragma once
/// Smoother: one method that chooses scales to be folded into a block before its weights are rounded, seen by the
/// pipeline. Like a pass, it knows nothing of files or text, and nothing of what rounds after it.
#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "compress/calibrate/statistics.h"
#include "compress/pass/pass.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/folds.h"

namespace autoglm::pass {

/// One fold point with the weights that read its channels.
struct FoldTarget {
  std::string name;  ///< of the module that produces the channels, for messages
  format::FoldKind kind = format::FoldKind::kInputNorm;
  int64_t channels = 0;
  int64_t head = 0, copies = 1;  ///< a weight's column c reads channel c / (head * copies) * head + c % head

  /// Consumers that will be rounded to integers and whose `input` (never null) saw tokens; at least one. Their results
  /// are not used.
  std::vector<Target> consumers;

  /// The scales nearest to wanted ones [channels] that can be stored without a loss (model/fold.h).
  std::function<at::Tensor(const at::Tensor& wanted)> storable;

  // Filled by the smoother.
  at::Tensor scales;  ///< float32 [channels], made by `storable`: consumers' columns are multiplied by them
  std::string note;   ///< "AWQ α 0.5", for the report

  /// Numbers by column [cols] of a consumer as [groups, copies, head]: a channel's own lie along dimension 1.
  at::Tensor by_channel(const at::Tensor& columns) const { return columns.view({-1, copies, head}); }
  /// Scales [channels] as one number for every column of a consumer.
  at::Tensor by_column(const at::Tensor& by_channel) const;
};

class Smoother {
 public:
  virtual ~Smoother() = default;
  virtual std::string_view name() const = 0;

  /// Whether it chooses scales for this kind of fold.
  virtual bool folds(format::FoldKind kind) const = 0;

  /// What must have been collected of each consumer's input.
  virtual calibrate::Needs needs() const = 0;

  /// Fills `scales` and `note`. Deterministic for one number of threads. Throws c10::Error (guarded by the pipeline).
  virtual Status run(FoldTarget& target, CancelToken& cancel) = 0;

  /// Bytes of working memory for a consumer [rows, cols], beyond the weight and its statistics.
  virtual int64_t working_bytes(int64_t rows, int64_t cols) const = 0;

  /// Floating-point operations per consumer [rows, cols], for time estimates.
  virtual double flops(int64_t rows, int64_t cols) const = 0;
};

}  // namespace autoglm::pass
