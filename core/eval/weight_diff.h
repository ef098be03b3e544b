#pragma once
/// The written weights against the source's, tensor by tensor, from the bytes of both files.
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/stored_model.h"

namespace autoglm::eval {

/// One weight or bias whose values are not all the source's. With w the source's and v the stored value:
struct TensorDiff {
  std::string name;     ///< in the compressed model
  std::string role;     ///< "q", "gate_up", ... as format::Role spells it
  int64_t layer = -1;   ///< -1 outside the blocks
  int64_t expert = -1;  ///< -1 outside routed experts
  std::string scheme;   ///< "INT4 g128 symmetric", or the dtype of a float tensor
  int64_t parameters = 0;
  int64_t compared = 0;     ///< parameters that were looked at
  double mse = 0;           ///< mean (w - v)^2
  double relative_mse = 0;  ///< sum (w - v)^2 / sum w^2; 0 when both are zero
  double cosine = 1;        ///< w.v / (|w| |v|); 1 when both are zero, 0 when one is
  double max_abs = 0;       ///< max |w - v|
};

struct WeightDiff {
  std::vector<TensorDiff> tensors;   ///< in the order of the layout; identical ones are only counted
  int64_t identical = 0;             ///< tensors whose values are all the source's
  std::vector<std::string> changed;  ///< float tensors of the artifact whose values differ from the source's
  std::vector<std::string> missing;  ///< tensors of the source that the artifact has in no form
  std::vector<std::string> extra;    ///< tensors of the artifact that come from nothing in the source
  double compared_share = 1;         ///< of the parameters, when only a sample was compared
};

struct WeightDiffOptions {
  /// 0: everything. Otherwise every k-th piece of rows of each tensor, the first always, so that about this many bytes
  /// of the source are read.
  int64_t max_bytes = 0;
};

/// Compares module by module (a weight and its bias are two tensors) in pieces of rows; pages are given back, so that
/// peak memory does not grow with the model. Renamed, split and fused tensors (chatglm's query_key_value and glm's q,
/// k, v) are matched by their role, and scales that were folded (core/format/folds.h) are taken out again. kBadInput: a
/// tensor that cannot be decoded, or a non-finite value in it (named).
Result<WeightDiff> compare_weights(const format::StoredModel& source, const format::StoredModel& compressed,
                                   const WeightDiffOptions& options, CancelToken& cancel);

}  // namespace autoglm::eval
