#include "core/base/status.h"

namespace autoglm {

std::string_view to_string(StatusCode code) {
  switch (code) {
    case StatusCode::kOk: return "ok";
    case StatusCode::kInternal: return "internal error";
    case StatusCode::kInvalidArgument: return "invalid argument";
    case StatusCode::kBadInput: return "bad input";
    case StatusCode::kContractBroken: return "contract broken";
    case StatusCode::kResourceExhausted: return "resource exhausted";
    case StatusCode::kCancelled: return "cancelled";
  }
  return "unknown";
}

Status Status::with_context(std::string_view where) const {
  if (ok()) return *this;
  return {code_, std::string(where) + ": " + message_};
}

}  // namespace autoglm
