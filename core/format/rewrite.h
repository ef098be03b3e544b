#pragma once
/// Changing tensors of a folder that was written but not yet put in place (CheckpointWriter::staging).
#include <cstddef>
#include <span>
#include <string_view>

#include "core/base/status.h"
#include "core/format/checkpoint.h"

namespace autoglm::format {

/// Writes other values over a tensor of the same length, in its file. Not atomic: for files that nobody relies on yet.
/// kInvalidArgument: no such tensor, another length. kResourceExhausted: the file cannot be written.
Status rewrite_tensor(const Checkpoint& checkpoint, std::string_view name, std::span<const std::byte> bytes);

}  // namespace autoglm::format
