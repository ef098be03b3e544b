#pragma once
/// Storing a weight as fp16, bf16 or fp32: the plainest scheme.
#include "compress/pass/pass.h"
#include "core/base/cancel.h"
#include "core/base/status.h"

namespace autoglm::quant {

/// Rounds one target to nearest even. kBadInput: a value does not fit (fp16 ends at 65504), or is NaN or infinite.
Status cast(pass::Target& target, CancelToken& cancel);

}  // namespace autoglm::quant
