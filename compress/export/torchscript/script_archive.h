#pragma once
/// A TorchScript module as a file, streamed: its tensors lie in mapped files and pass through once.
#include <torch/csrc/jit/api/module.h>

#include <cstdint>
#include <filesystem>
#include <map>

#include "compress/export/torchscript/script_weights.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/checkpoint.h"
#include "core/format/file.h"

namespace autoglm::exports {

struct ScriptArchive {
  int64_t bytes = 0;
  std::map<const void*, int64_t> offsets;  ///< where the bytes of each tensor stand in the file
};

/// Writes `module`, and gives the pages of `tensors` (of `checkpoint`) back as they are written. kBadInput names a
/// tensor that holds NaN or infinity. kResourceExhausted, kCancelled. Throws what PyTorch throws.
Result<ScriptArchive> write_archive(const torch::jit::Module& module,
                                    const std::map<const void*, MappedTensor>& tensors,
                                    const format::Checkpoint& checkpoint, const format::FileDescriptor& fd,
                                    const std::filesystem::path& shown, const CancelToken& cancel);

/// Reads the tensors back and compares them with the checkpoint's bytes.
Status check_archive(const ScriptArchive& archive, const std::map<const void*, MappedTensor>& tensors,
                     const format::Checkpoint& checkpoint, const format::FileDescriptor& fd,
                     const std::filesystem::path& shown, const CancelToken& cancel);

}  // namespace autoglm::exports
