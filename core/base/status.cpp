#include "core/base/status.h"

#include <fmt/format.h>

#include <algorithm>

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

Status::Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
  if (std::none_of(message_.begin(), message_.end(), is_control)) return;
  std::string escaped;
  for (const char c : message_) {
    if (!is_control(c)) {
      escaped += c;
    } else if (c == '\n') {
      escaped += "\\n";
    } else {
      escaped += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  message_ = std::move(escaped);
}

Status Status::with_context(std::string_view where) const {
  if (ok()) return *this;
  return {code_, std::string(where) + ": " + message_};
}

}  // namespace autoglm
