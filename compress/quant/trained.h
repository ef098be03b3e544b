#pragma once
/// Values of an artifact that are trained (reconstruct.h, refine.h), as they are stored and as tensors with gradients.
/// Private to the room.
#include <ATen/core/Tensor.h>

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compress/model/block.h"
#include "compress/model/decoder.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/checkpoint.h"
#include "core/format/dtype.h"
#include "core/format/folds.h"
#include "core/format/quantized_weight.h"

namespace autoglm::quant {

/// Bytes for a stored tensor, of the length that it has.
struct NewValues {
  std::string name;
  std::vector<std::byte> bytes;
};

/// Steps of training: how far a value may move in one, relative to its unit.
struct Rates {
  double values = 1e-3;  ///< scales, norms, biases: a share of their size
  double rounding = 0;   ///< integers: of a step from one to the next
};

/// One tensor that is trained with Adam (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1): value = start + unit *
/// change, so that a rate means the same for large and small values.
class TrainedVector {
 public:
  TrainedVector() = default;
  /// A float tensor of any shape. `relative`: each value moves in proportion to itself (scales), else to the mean size
  /// of all (norms, biases).
  static Result<TrainedVector> load(const format::Checkpoint& checkpoint, const std::string& name,
                                    bool relative = false);
  /// Positions between integers, float32; they have no stored form of their own.
  static TrainedVector of(const at::Tensor& positions);

  /// float32, rounded to the stored type; its gradient goes to the change.
  at::Tensor value() const;
  void update(double rate, int64_t step);
  NewValues stored() const;

 private:
  TrainedVector(at::Tensor start, at::Tensor unit);

  std::string name_;
  at::ScalarType type_ = at::kFloat;
  at::Tensor start_, unit_, change_;
  at::Tensor momentum_, square_;
};

/// A quantized matrix whose scales are trained, and where wanted its integers: each is the nearest to a position that
/// moves, with the gradient of the position (straight-through).
class TrainedMatrix {
 public:
  /// `wanted` [out, in] float32: what the weight was before, which decides to which side an integer moves first;
  /// undefined: the integers stay. Zero points always stay.
  static Result<TrainedMatrix> load(const model::Decoder& decoder, const format::ModuleSpec& module,
                                    const at::Tensor& wanted = {});
  at::Tensor value() const;  ///< [out, in] float32
  void update(const Rates& rates, int64_t step);
  std::vector<NewValues> stored() const;

 private:
  at::Tensor codes() const;  ///< q - zero_point, [rows, groups, columns of a group], float32

  std::string module_;
  std::string_view format_;
  format::QuantizedWeight form_;  ///< but for the integers and scales
  at::Tensor codes_;              ///< as stored, int8 or int16; undefined where they are trained
  std::optional<TrainedVector> positions_;
  at::Tensor lowest_, highest_;  ///< codes of each group, [rows, groups, 1]
  TrainedVector scales_;
};

/// The model before it was compressed, and the scales that were folded since.
struct Original {
  const model::Decoder* decoder = nullptr;
  format::Folds folds;

  /// The weight that rows of `module`, as it was written, stand for, [out, in] float32.
  Result<at::Tensor> weight(const format::ModuleSpec& module) const;
};

/// A block of which every quantized matrix, norm and bias is trained.
class TrainedBlock {
 public:
  /// `original`: where the integers are trained too; else null.
  static Result<TrainedBlock> load(const model::Decoder& decoder, int64_t layer, const Original* original,
                                   CancelToken& cancel);
  bool quantized() const { return !matrices_.empty(); }
  /// With the values of now.
  model::Block build() const;
  /// Shows `pass` a block with the values of now, which it may go back through any number of times: what that gives to
  /// weights, norms and biases goes on to what is trained once, at the end. Gradients are on meanwhile.
  Status descend(const std::function<Status(const model::Block&)>& pass) const;
  void update(const Rates& rates, int64_t step);
  std::vector<NewValues> stored() const;

 private:
  model::Block build(const std::function<at::Tensor(at::Tensor)>& shown) const;

  model::Block block_;  ///< what is not trained; weights of the trained matrices are undefined
  std::vector<std::pair<std::string, TrainedMatrix>> matrices_;  ///< by module name
  std::vector<std::pair<std::string, TrainedVector>> biases_;    ///< by module name
  std::vector<std::pair<at::Tensor model::Block::*, TrainedVector>> norms_;
};

/// Writes them over what `checkpoint` holds under their names.
Status write_over(const format::Checkpoint& checkpoint, const std::vector<NewValues>& values);

}  // namespace autoglm::quant
