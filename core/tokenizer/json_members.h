#pragma once
/// Typed access to the members of untrusted JSON objects. Messages name the member; callers add where the object is.
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "core/base/status.h"

namespace autoglm::tokenizer {

using Json = nlohmann::json;

/// Sequences of normalizers, pre-tokenizers and decoders may nest this deep.
inline constexpr int kMaxSequenceDepth = 16;
inline constexpr size_t kMaxSteps = 256;  ///< and have this many steps in all

/// The steps of one component may together make text this many times longer; more would let a file ask for any memory.
inline constexpr double kMaxGrowth = 256;

/// Token ids are smaller than this (tables are indexed by id).
inline constexpr int64_t kMaxTokenId = 1 << 24;

/// The member, or nothing where it is absent or null.
const Json* find_member(const Json& object, std::string_view name);

/// kBadInput where the member is absent or of another type. With a fallback, an absent or null member gives that.
Result<std::string> string_member(const Json& object, std::string_view name);
Result<std::string> string_member(const Json& object, std::string_view name, std::string_view fallback);
Result<bool> bool_member(const Json& object, std::string_view name, std::optional<bool> fallback = std::nullopt);
Result<int64_t> integer_member(const Json& object, std::string_view name);

/// The array `name`; kBadInput where it is absent or no array. The pointer lives as long as `object`.
Result<const Json*> array_member(const Json& object, std::string_view name);

/// The "type" of a component; kBadInput where `component` is no object or has none.
Result<std::string> component_type(const Json& component);

/// A token id within [0, kMaxTokenId).
Result<int32_t> token_id(const Json& value);

}  // namespace autoglm::tokenizer
