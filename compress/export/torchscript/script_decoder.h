#pragma once
/// The decoder as a TorchScript module (torchscript.h says what it takes and gives): every family.
#include <torch/csrc/jit/api/module.h>

#include "compress/export/torchscript/script_classes.h"
#include "compress/export/torchscript/script_weights.h"
#include "core/format/stored_model.h"

namespace autoglm::exports {

/// Throws what PyTorch throws when its source does not compile.
torch::jit::Module script_decoder(const format::StoredModel& model, ScriptWeights& weights, ScriptClasses& classes);

}  // namespace autoglm::exports
