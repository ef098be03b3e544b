#pragma once
/// The quantization methods of this room.
#include "compress/pass/registry.h"

namespace autoglm::quant {

/// Adds "rtn" and "gptq".
void register_quantizers(pass::Registry& registry);

}  // namespace autoglm::quant
