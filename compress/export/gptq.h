#pragma once
/// gptq: the layout of AutoGPTQ and GPTQModel (github.com/ModelCloud/GPTQModel), which vLLM and others read.
///
///   M.qweight  I32 [in * bits / 32, out]: word w of column n is word w of row n's stream of values (bit_packing.h)
///
///   M.qzeros  I32 [groups, out * bits / 32]: zero points along the row, in `gptq` less 1, in `gptq_v2` as they are
///
///   M.scales  F16 [groups, out]
///
///   M.g_idx  I32 [in]: the group of each input
///
/// Values and zero points are unsigned: q + 2^(bits-1). Symmetric weights are written as `gptq`, asymmetric ones, whose
/// zero points may be 0, as `gptq_v2`.
#include <memory>

#include "compress/export/weight_layout.h"

namespace autoglm::exports {

std::unique_ptr<WeightLayout> gptq_layout();

}  // namespace autoglm::exports
