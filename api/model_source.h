#pragma once
/// Where a model named on the command line lies: a folder, or a Hugging Face id in the local cache.
#include <filesystem>
#include <string>

#include "core/base/status.h"

namespace autoglm::api {

/// A folder is returned as it is. "org/name" or "org/name@revision" is looked up in the cache that HF_HUB_CACHE,
/// HF_HOME or ~/.cache/huggingface name, as huggingface_hub lays it out (models--org--name/{refs,snapshots}).
/// kBadInput: neither exists; says where it looked.
Result<std::filesystem::path> find_model(const std::string& model);

/// Whether writing `output`, a folder or a file, would take the place of what `input` is read from.
bool lies_in(const std::filesystem::path& input, const std::filesystem::path& output);

}  // namespace autoglm::api
