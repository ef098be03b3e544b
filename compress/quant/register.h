#pragma once
/// The quantization methods of this room.
#include "compress/pass/registry.h"

namespace autoglm::quant {

/// Adds the passes "rtn", "gptq", "gptaq" and "awq", and the smoothers "awq" and "smoothquant".
void register_quantizers(pass::Registry& registry);

}  // namespace autoglm::quant
