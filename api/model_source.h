#pragma once
/// Where a model named on the command line lies: a folder, or a Hugging Face id.
#include <filesystem>
#include <string>

#include "compress/hub/hub.h"
#include "core/base/cancel.h"
#include "core/base/status.h"

namespace autoglm::api {

/// A folder is returned as it is. "org/name" or "org/name@revision" is found in huggingface_hub's cache or downloaded
/// into it (hub.h). kInvalidArgument: "". Errors of hub::fetch_model; kBadInput:
/// no such folder, or the model cannot be had.
Result<std::filesystem::path> find_model(const std::string& model, const CancelToken& cancel,
                                         hub::Fetch what = hub::Fetch::kWeights);

/// Whether a name is that of a GGUF file, which find_model refuses: only `export --format hf` reads one.
bool is_gguf(const std::string& model);

}  // namespace autoglm::api
