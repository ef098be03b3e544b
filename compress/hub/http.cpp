#include "compress/hub/http.h"

#include <curl/curl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <thread>
#include <utility>

#include "core/base/log.h"

namespace autoglm::hub {
namespace {

constexpr int kRetries = 4;
constexpr long kMostRedirects = 10;
constexpr long kConnectSeconds = 20;
constexpr long kStallSeconds = 30;  // with less than a byte a second
constexpr std::chrono::seconds kMostWait{120};

struct Closer {
  void operator()(CURL* curl) const { curl_easy_cleanup(curl); }
};
using Curl = std::unique_ptr<CURL, Closer>;

Curl open_curl() {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  return Curl(curl_easy_init());
}

/// What takes the bytes of an answer of an HTTP status; false stops it.
using Take = std::function<bool(long status, const char* data, size_t size)>;

struct Sink {
  CURL* curl;
  Take& take;
};

size_t on_data(char* data, size_t size, size_t count, void* sink) {
  const auto& [curl, take] = *static_cast<Sink*>(sink);
  long status = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  return take(status, data, size * count) ? size * count : 0;
}

int on_progress(void* request, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return static_cast<const HttpRequest*>(request)->cancelled() ? 1 : 0;
}

/// One attempt.
struct Answer {
  CURLcode code = CURLE_OK;
  long status = 0;
  curl_off_t retry_after = 0;  // seconds; 0: not said
};

Answer perform(CURL* curl, const HttpRequest& request, int64_t first_byte, Take& take) {
  curl_easy_reset(curl);
  curl_easy_setopt(curl, CURLOPT_URL, request.url.c_str());
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "autoglm");
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_QUICK_EXIT, 1L);  // a look-up of the host's address is not waited for
  if (request.most_seconds > 0) curl_easy_setopt(curl, CURLOPT_TIMEOUT, static_cast<long>(request.most_seconds));
  curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl, CURLOPT_MAXREDIRS, kMostRedirects);
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, request.url.starts_with("https:") ? "https" : "http,https");
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, kStallSeconds);
  if (!request.token.empty()) {
    curl_easy_setopt(curl, CURLOPT_HTTPAUTH, CURLAUTH_BEARER);
    curl_easy_setopt(curl, CURLOPT_XOAUTH2_BEARER, request.token.c_str());
  }
  if (first_byte > 0) curl_easy_setopt(curl, CURLOPT_RANGE, fmt::format("{}-", first_byte).c_str());
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
  Sink sink{curl, take};
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &sink);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &request);
  Answer answer;
  answer.code = curl_easy_perform(curl);
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &answer.status);
  curl_easy_getinfo(curl, CURLINFO_RETRY_AFTER, &answer.retry_after);
  return answer;
}

bool is_http_failure(const Answer& answer) { return answer.code == CURLE_HTTP_RETURNED_ERROR; }

bool may_pass(const Answer& answer) {
  if (is_http_failure(answer)) return answer.status == 408 || answer.status == 429 || answer.status >= 500;
  switch (answer.code) {
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM: return true;
    default: return false;
  }
}

Status failure(const Answer& answer, const HttpRequest& request) {
  if (answer.code == CURLE_ABORTED_BY_CALLBACK && request.cancelled()) return cancelled();
  if (!is_http_failure(answer)) {
    return bad_input(fmt::format("{}: {}", request.url, curl_easy_strerror(answer.code)));
  }
  switch (answer.status) {
    case 401:
    case 403:
      return bad_input(
          fmt::format("{}: access denied ({}): no such model, or a private or gated one, which needs HF_TOKEN, "
                      "of an account that was granted access",
                      request.url, answer.status));
    case 404: return bad_input(fmt::format("{}: not found (404)", request.url));
    case 429: return bad_input(fmt::format("{}: too many requests (429); try again later", request.url));
    default: return bad_input(fmt::format("{}: the server answers {}", request.url, answer.status));
  }
}

/// Sleeps; false when cancelled meanwhile.
bool wait(std::chrono::milliseconds time, const HttpRequest& request) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) {
    if (request.cancelled()) return false;
    std::this_thread::sleep_for(std::min(time, std::chrono::milliseconds(50)));
  }
  return true;
}

/// Attempts until one succeeds or trying again is no use. `begin` gives the first byte that is wanted, and is called
/// before each attempt; progress since the attempt before starts the count of retries anew.
Status transfer(const HttpRequest& request, const std::function<int64_t()>& begin, Take take) {
  const Curl curl = open_curl();
  if (!curl) return resource_exhausted(request.url + ": no memory for a transfer");
  int64_t most = begin();  // the furthest that any attempt came
  for (int retry = 0;; ++retry) {
    const int64_t first = begin();
    if (first > most) retry = 0;
    most = std::max(most, first);
    const Answer answer = perform(curl.get(), request, first, take);
    if (answer.code == CURLE_OK) return ok_status();
    const bool is_gone = answer.code == CURLE_COULDNT_CONNECT || answer.code == CURLE_COULDNT_RESOLVE_HOST;
    if (!(may_pass(answer) || (is_gone && most > 0)) || retry == kRetries) return failure(answer, request);
    if (answer.retry_after > kMostWait.count()) return failure(answer, request);
    const std::chrono::milliseconds pause(500 << retry), asked(1000 * answer.retry_after);
    if (asked > pause) warn(fmt::format("{}: asks to wait {} s", request.url, answer.retry_after));
    if (!wait(std::max(pause, asked), request)) return cancelled();
  }
}

}  // namespace

Result<std::string> http_get(const HttpRequest& request, int64_t max_bytes) {
  std::string body;
  bool too_long = false;
  const auto begin = [&] {
    body.clear();
    return int64_t{0};
  };
  const Status status = transfer(request, begin, [&](long, const char* data, size_t size) {
    too_long = too_long || body.size() + size > static_cast<size_t>(max_bytes);
    if (!too_long) body.append(data, size);
    return !too_long;
  });
  if (too_long) return bad_input(fmt::format("{}: the answer is longer than {} bytes", request.url, max_bytes));
  AUTOGLM_RETURN_IF_ERROR(status);
  return body;
}

Status http_download(const HttpRequest& request, const format::FileDescriptor& fd, const std::filesystem::path& shown,
                     int64_t have, int64_t size, std::atomic<int64_t>& received) {
  Status stopped;      // why we stopped it
  bool begins = true;  // no byte of this attempt has come
  const auto begin = [&] {
    begins = true;
    received = have;
    return have;
  };
  const Status status = transfer(request, begin, [&](long code, const char* data, size_t count) {
    constexpr long kPart = 206;
    if (std::exchange(begins, false) && code != kPart) {
      have = 0;  // a server that sends no parts
      if (::ftruncate(fd.get(), 0) != 0) {
        stopped = format::system_failure(shown, "cannot write", errno);
        return false;
      }
    }
    if (have + static_cast<int64_t>(count) > size) {
      stopped = bad_input(fmt::format("{}: sends more than the {} bytes that the hub names", request.url, size));
      return false;
    }
    stopped = format::write_at(fd, have, std::as_bytes(std::span(data, count)), shown);
    if (!stopped.ok()) return false;
    have += static_cast<int64_t>(count);
    received = have;
    return true;
  });
  AUTOGLM_RETURN_IF_ERROR(stopped);
  AUTOGLM_RETURN_IF_ERROR(status);
  if (have == size) return ok_status();
  return bad_input(fmt::format("{}: ends after {} of {} bytes", request.url, have, size));
}

std::string escape_path(const std::string& text, std::string_view kept) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("-._~").find(c) != std::string_view::npos ||
                       kept.find(c) != std::string_view::npos;
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

}  // namespace autoglm::hub
