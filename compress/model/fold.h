#pragma once
/// Folding scales into a block (core/format/folds.h says where): what it computes stays the same.
#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>

#include "compress/model/block.h"
#include "core/format/folds.h"

namespace autoglm::model {

/// The float type in which a file will hold a module's weight (nothing: integers) and its bias or, of a norm, its
/// weight.
struct StoredAs {
  std::optional<at::ScalarType> weight;
  at::ScalarType vector = at::kFloat;
};

/// What turns wanted scales [channels] into float32 ones near them that a file can hold. A norm, or the producer's
/// bias, is rounded when it is stored: the scale becomes the quotient of what it was and what it will be, which leaves
/// nothing of the rounding. Where a weight stays a float, scales are powers of two, by which it changes exactly. Scale
/// 1 where neither can be had: a norm of zero, overflow or underflow, a wanted scale that is not finite and positive.
/// Views of `block` are kept.
std::function<at::Tensor(const at::Tensor& wanted)> storable_scales(
    Block& block, const format::FoldPoint& point,
    const std::function<StoredAs(const format::ModuleSpec& module)>& stored);

/// Divides the producer's rows and bias by `scales` [channels] and multiplies the consumers' columns, in place.
/// `point` is of the layout that the block was loaded by.
void fold(Block& block, const format::FoldPoint& point, const at::Tensor& scales);

/// Scales [channels] as one number for every column of a consumer, whose channels come in runs of `head`, each `copies`
/// times.
at::Tensor by_column(const at::Tensor& scales, int64_t head, int64_t copies);

}  // namespace autoglm::model
