#pragma once
/// Values of an artifact that refinement trains, as they are stored and as tensors with gradients. Private to the room.
#include <ATen/core/Tensor.h>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "compress/model/block.h"
#include "compress/model/decoder.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/checkpoint.h"
#include "core/format/dtype.h"

namespace autoglm::quant {

/// Bytes for a stored tensor, of the length that it has.
struct NewValues {
  std::string name;
  std::vector<std::byte> bytes;
};

/// One tensor that is trained with Adam (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1): value = start + unit *
/// change, so that a rate means the same for large and small values.
class TrainedVector {
 public:
  /// A float tensor of any shape. `relative`: each value moves in proportion to itself (scales), else to the mean size
  /// of all (norms, biases).
  static Result<TrainedVector> load(const format::Checkpoint& checkpoint, const std::string& name,
                                    bool relative = false);

  /// float32, rounded to the stored type; its gradient goes to the change.
  at::Tensor value() const;
  void update(double rate, int64_t step);
  NewValues stored() const;

 private:
  std::string name_;
  at::ScalarType type_ = at::kFloat;
  at::Tensor start_, unit_, change_;
  at::Tensor momentum_, square_;
};

/// A quantized matrix whose scales are trained; its integers stay.
class TrainedMatrix {
 public:
  static Result<TrainedMatrix> load(const model::Decoder& decoder, const format::ModuleSpec& module);
  at::Tensor value() const;  ///< [out, in] float32
  void update(double rate, int64_t step) { scales_.update(rate, step); }
  NewValues stored() const { return scales_.stored(); }

 private:
  at::Tensor codes_;  ///< q - zero_point, [out, groups, columns of a group], int8 or int16
  TrainedVector scales_;
  std::vector<int64_t> shape_;  ///< out, in
};

/// A block of which every quantized matrix, norm and bias is trained.
class TrainedBlock {
 public:
  static Result<TrainedBlock> load(const model::Decoder& decoder, int64_t layer, CancelToken& cancel);
  bool quantized() const { return !matrices_.empty(); }
  /// With the values of now; gradients go through it where they are on.
  model::Block build() const;
  void update(double rate, int64_t step);
  std::vector<NewValues> stored() const;

 private:
  model::Block block_;  ///< what is not trained; weights of the trained matrices are undefined
  std::vector<std::pair<std::string, TrainedMatrix>> matrices_;  ///< by module name
  std::vector<std::pair<std::string, TrainedVector>> biases_;    ///< by module name
  std::vector<std::pair<at::Tensor model::Block::*, TrainedVector>> norms_;
};

}  // namespace autoglm::quant
