#pragma once
/// Text that the source model writes itself: what calibration takes in place of data.
#include <cstdint>
#include <vector>

#include "compress/model/decoder.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/eval/scorer.h"
#include "core/tokenizer/tokenizer.h"

namespace autoglm::api {

struct SelfText {
  int64_t sequences = 0, length = 0;
  uint64_t seed = 0;
  int64_t max_ram = 0;  // bytes of the whole process; 0: what the machine has
};

/// Bytes that it takes beyond the program: the whole model, keys and values of a batch, and its logits.
int64_t self_text_bytes(const model::Decoder& source, int64_t length);

/// The same seed gives the same sequences; none that verification, with the same seed, has the model write.
/// kResourceExhausted: the model does not fit.
Result<std::vector<eval::Tokens>> write_self_text(const model::Decoder& source, const tokenizer::Tokenizer& tokenizer,
                                                  const SelfText& wanted, CancelToken& cancel);

}  // namespace autoglm::api
