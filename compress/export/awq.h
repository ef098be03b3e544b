#pragma once
/// awq: the `gemm` layout of AutoAWQ (github.com/casper-hansen/AutoAWQ), which vLLM and others read; 4 bits alone.
///
///   M.qweight I32 [in, out / 8]      eight outputs to a word, the lowest four bits first: 0, 2, 4, 6, 1, 3, 5, 7
///   M.qzeros  I32 [groups, out / 8]  likewise
///   M.scales  F16 [groups, out]
/// Values and zero points are unsigned: q + 8.
#include <memory>

#include "compress/export/weight_layout.h"

namespace autoglm::exports {

std::unique_ptr<WeightLayout> awq_layout();

}  // namespace autoglm::exports
