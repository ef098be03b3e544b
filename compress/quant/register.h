#pragma once
/// The quantization methods of this room.
#include "compress/pass/registry.h"

namespace autoglm::quant {

/// Adds "rtn", "gptq" and "gptaq".
void register_quantizers(pass::Registry& registry);

}  // namespace autoglm::quant
