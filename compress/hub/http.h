#pragma once
/// HTTP transfers by libcurl, tried again where that may help: dropped connections, 408, 429 (after its Retry-After)
/// and 5xx. Redirects are followed, from https to https alone; a token is sent to the first host alone.
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "core/base/status.h"
#include "core/format/file.h"

namespace autoglm::hub {

struct HttpRequest {
  std::string url;
  std::string token;                ///< Authorization: Bearer; "" sends none
  std::function<bool()> cancelled;  ///< asked about once a second
  int64_t most_seconds = 0;         ///< that one attempt may take; 0: no limit but for standing still
};

/// The status of a failed answer: kBadInput with what the code means (401, 403, 404, ...), or that the host cannot be
/// reached. kCancelled.
Result<std::string> http_get(const HttpRequest& request, int64_t max_bytes);

/// Completes the file `fd`, which holds the first `have` bytes of `size`, in what is left of it; from the start where
/// the server sends no parts. `received` follows the bytes in the file. kBadInput as above, or a body that is longer or
/// shorter than `size`. kResourceExhausted: disk.
Status http_download(const HttpRequest& request, const format::FileDescriptor& fd, const std::filesystem::path& shown,
                     int64_t have, int64_t size, std::atomic<int64_t>& received);

/// `text` with everything but letters, digits, "-._~" and what is `kept` as %XX.
std::string escape_path(const std::string& text, std::string_view kept = "/");

}  // namespace autoglm::hub
