#pragma once
/// A tensor that an export copies as it is.
#include <cstdint>
#include <string>

#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/checkpoint.h"

namespace autoglm::exports {

/// Rows of a tensor of `checkpoint`, one after another in memory: the whole of it, or those from `first_row` on.
struct CopySource {
  const format::Checkpoint& checkpoint;
  std::string name;
  int64_t first_row = 0;
};

/// Fails where the tensor `name` of `written` is not a copy of `source` or of its first rows. Memory: a few MB.
Status compare_copy(const format::Checkpoint& written, const std::string& name, const CopySource& source,
                    CancelToken& cancel);

/// The failure of a tensor that came back otherwise than it was written.
Status differs(const std::string& name);

}  // namespace autoglm::exports
