#pragma once
/// Where the bytes of a model are, and how many bits a weight takes, from file headers alone.
#include <cstdint>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/format/stored_model.h"

namespace autoglm::eval {

/// "embedding", "attention", "mlp", "experts" (routed and shared, with their routers), "norms", "head", or "other"
/// (vision tower, MTP layers, buffers).
struct PartSize {
  std::string part;
  int64_t parameters = 0;
  int64_t bytes = 0;         ///< everything stored for them
  int64_t scale_bytes = 0;   ///< of these, scales and zero points
  int64_t source_bytes = 0;  ///< of the same part of the source; 0 without one
  double bits_per_weight = 0;
};

struct Sizes {
  std::vector<PartSize> parts;           ///< in the order above, empty parts left out
  int64_t parameters = 0;                ///< numbers the model has, however they are stored
  int64_t tensor_bytes = 0;              ///< all tensors, file headers excluded
  int64_t file_bytes = 0;                ///< the weight files
  int64_t source_file_bytes = 0;         ///< 0 without a source
  int64_t quantized_parameters = 0;      ///< weights stored as integers
  double quantized_bits_per_weight = 0;  ///< stored bits of those, scales, zero points and shapes included; 0 for none
  double bits_per_weight = 0;            ///< 8 * tensor_bytes / parameters
  double ratio = 0;                      ///< source_file_bytes / file_bytes; 0 without a source
  double ratio_16_bit = 0, ratio_32_bit = 0;  ///< against all parameters in 2 and in 4 bytes
};

/// `source` may be null.
Sizes measure_sizes(const format::StoredModel& model, const format::StoredModel* source);

}  // namespace autoglm::eval
