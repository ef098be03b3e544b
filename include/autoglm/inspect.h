#pragma once
/// inspect(): what a checkpoint holds, from its config and headers alone.
#include <autoglm/status.h>

#include <string>

namespace autoglm {

struct InspectOutcome {
  std::string json;     ///< config, layers, tensors, bytes, quantization
  std::string summary;  ///< the same for people
};

/// `model` is a folder or a Hugging Face id (of which no weights are downloaded); of a folder without weight files,
/// what its config.json says is shown. `all_tensors` lists every tensor instead of one line per layer.
Result<InspectOutcome> inspect(const std::string& model, bool all_tensors = false);

}  // namespace autoglm
