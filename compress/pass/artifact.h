#pragma once
/// Writing compressed modules into an artifact, and measuring what was lost in each. Private to the room.
#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <string_view>

#include "compress/model/block.h"
#include "compress/pass/pass.h"
#include "compress/pass/pipeline.h"
#include "core/base/cancel.h"
#include "core/format/checkpoint.h"
#include "core/format/checkpoint_writer.h"
#include "core/format/folds.h"

namespace autoglm::pass {

/// Rows [first, first + count) of a result as floats of `type`: what a reader of the file will see.
at::Tensor result_rows(const Target& target, int64_t first, int64_t count, at::ScalarType type);

/// Reads the original again beside the result. `sample` [tokens, cols] may be undefined, and so may `shift` [rows],
/// what is added to the bias.
Result<TensorReport> measure(const Target& target, std::string_view method, const at::Tensor& sample,
                             const at::Tensor& shift, CancelToken& cancel);

/// Seconds by stage.
class StageClock {
 public:
  /// Adds the time from construction to destruction to `stage`.
  class Scope {
   public:
    Scope(StageClock& clock, std::string stage);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    StageClock& clock_;
    std::string stage_;
    double start_;
  };
  std::vector<std::pair<std::string, double>> seconds() const { return {seconds_.begin(), seconds_.end()}; }

 private:
  std::map<std::string, double> seconds_;
};

/// One artifact being written from one source.
class Artifact {
 public:
  /// `folds`: what was folded so far; it may grow.
  Artifact(const format::Checkpoint& source, const format::Folds& folds, format::CheckpointWriter& writer)
      : source_(source), folds_(folds), writer_(&writer) {}

  /// What follows goes there, which must outlive it.
  void set_writer(format::CheckpointWriter& writer) { writer_ = &writer; }

  /// A target that reads the source's file, row by row, with what was folded into it. `decision` must outlive it.
  Target file_target(const Decision& decision) const;

  /// The compressed weight of `target`; its result is freed.
  Status write(const Decision& decision, Target& target);
  /// The weight as it is but for folds: all of it, or the rows that the decision takes. kBadInput: a value is NaN or
  /// infinite.
  Status copy_weight(const Decision& decision);
  /// The bias, where there is one, in the float type of a whole-model cast; `corrected` [rows], where defined, in its
  /// place.
  Status write_bias(const Decision& decision, CancelToken& cancel, const at::Tensor& corrected = {});
  /// Any other tensor, under its own name, whatever its values.
  Status copy(const std::string& name);

 private:
  /// Rows of a tensor of the source in float32, [rows, cols]; a vector (`cols` 1, norms and biases) is [rows].
  Result<at::Tensor> read(const Decision& decision, const std::string& tensor, int64_t first, int64_t rows) const;
  Status copy_rows(const std::string& from, const std::string& to, int64_t first, int64_t count);
  const format::Checkpoint& source_;
  const format::Folds& folds_;
  format::CheckpointWriter* writer_;
};

/// The linear of a block that holds a decision's rows.
model::Linear* linear_of(model::Block& block, const Decision& decision);

/// A target that reads them there. `linear` must outlive it.
Target block_target(const model::Linear& linear, const Decision& decision);

}  // namespace autoglm::pass
