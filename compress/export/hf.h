#pragma once
/// hf: an artifact as a plain Hugging Face folder again, for software that knows nothing of quantization.
///
/// Every quantized matrix is written as the floats that its integers and scales stand for, rounded to the type asked
/// for: in the scales' type, which is the model's own unless that was changed, exactly what compressed-tensors
/// decompresses it to. All else is copied as it is, and config.json without its quantization_config.
#include <cstdint>
#include <optional>

#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/checkpoint_writer.h"
#include "core/format/stored_model.h"

namespace autoglm::exports {

struct HfOptions {
  std::optional<format::DType> dtype;  ///< BF16, F16 or F32, of every float weight; none: the model's own
};

struct HfReport {
  format::DType dtype = format::DType::kBF16;  ///< of the matrices that were quantized
  int64_t matrices = 0;                        ///< that were quantized
  int64_t checked = 0;                         ///< tensors read back from the files, equal to what they were made from
  double rounding = 0;                         ///< largest |written - artifact| / largest |artifact| of a matrix
  bool had_activations = false;  ///< the artifact quantized activations too, which a plain folder cannot say
};

/// Streams `model` (of any family but chatglm, which transformers does not load) into `writer`, finishes it and reads
/// every tensor back; the caller commits. Memory: a few MB.
/// kBadInput: a tensor that cannot be decoded, or is beyond the range of the type (named). kResourceExhausted: disk.
/// kCancelled.
Result<HfReport> write_hf(const format::StoredModel& model, const HfOptions& options, format::CheckpointWriter& writer,
                          CancelToken& cancel);

}  // namespace autoglm::exports
