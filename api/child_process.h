#pragma once
/// Another program, run to its end: how written files are measured by a process that never saw them in memory.
#include <filesystem>
#include <string>
#include <vector>

#include "core/base/cancel.h"
#include "core/base/status.h"

namespace autoglm::api {

inline constexpr int kSignalled = 128;  ///< and the signal's number: the exit code of a child that one ended

struct ChildOutput {
  int exit_code = 0;
  std::string out;    ///< standard output
  std::string error;  ///< the last line of standard error
};

/// Runs `program` (a path, or a name looked up on PATH) with `arguments`; the lines of its standard
/// error are passed on to ours (warnings through `warn`), but for the last one of a program that fails: that is
/// `error`, for the caller's message. On cancellation the child is interrupted, and killed when it has not ended within
/// half a second. It is killed, too, when the calling thread ends before it, in whatever way. kResourceExhausted: it
/// cannot be started.
Result<ChildOutput> run_child(const std::string& program, const std::vector<std::string>& arguments,
                              CancelToken& cancel);

}  // namespace autoglm::api
