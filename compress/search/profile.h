#pragma once
/// Profile: what an artifact is made for. No LibTorch here: settings are read without it too.
#include <string_view>

#include "core/base/status.h"

namespace autoglm::search {

/// What an artifact is made for, and so which formats it may have.
enum class Profile {
  kAny,           ///< all that autoglm-edge runs
  kTransformers,  ///< any integers, but the embedding is kept (docs/FORMATS.md)
  kVllm,          ///< 4 and 8 bits; embedding and head are kept
};
std::string_view to_string(Profile profile);
Result<Profile> profile_of(std::string_view word);  ///< "any", "transformers", "vllm"; else kInvalidArgument

}  // namespace autoglm::search
