#pragma once
/// Status and Result: how every library function reports failure.
///
/// No exception crosses a public interface. A function that can fail returns `Status` or `Result<T>`; the message is
/// one line that says what is wrong, where (file, tensor, line) and what to do about it. Printing and exit codes belong
/// to the programs in apps/.
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace autoglm {

/// Failure kinds, grouped by who can mend them. The value is the exit code of the programs.
enum class StatusCode : int {
  kOk = 0,
  kInternal = 1,           ///< a defect in Open-AutoGLM itself
  kInvalidArgument = 2,    ///< the caller's options or recipe are wrong
  kBadInput = 3,           ///< a file that was read is missing, corrupt, contradictory or of an unsupported kind
  kContractBroken = 4,     ///< the work was done, but a promised bound (for example --max-loss) does not hold
  kResourceExhausted = 5,  ///< disk, memory or permission is lacking
  kCancelled = 130,        ///< stopped by Ctrl-C or a CancelToken
};

/// "invalid argument", "bad input", ... for logs and JSON.
std::string_view to_string(StatusCode code);

/// The outcome of an operation: OK, or a code and a one-line message. Cheap to move; thread-compatible.
class [[nodiscard]] Status {
 public:
  Status() = default;
  /// Control characters of the message, which may quote a file or an argument, are escaped: it stays one line.
  Status(StatusCode code, std::string message);

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

  /// Puts `where: ` before the message, for callers that know the file or tensor a deeper layer did not.
  Status with_context(std::string_view where) const;

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

inline Status ok_status() { return {}; }
inline Status internal_error(std::string m) { return {StatusCode::kInternal, std::move(m)}; }
inline Status invalid_argument(std::string m) { return {StatusCode::kInvalidArgument, std::move(m)}; }
inline Status bad_input(std::string m) { return {StatusCode::kBadInput, std::move(m)}; }
inline Status contract_broken(std::string m) { return {StatusCode::kContractBroken, std::move(m)}; }
inline Status resource_exhausted(std::string m) { return {StatusCode::kResourceExhausted, std::move(m)}; }
inline Status cancelled() { return {StatusCode::kCancelled, "cancelled"}; }

/// A value or the Status that says why there is none. Reading `value()` of a failed Result is a programming error.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}         // NOLINT(google-explicit-constructor)
  Result(Status status) : state_(std::move(status)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return std::holds_alternative<T>(state_); }
  Status status() const { return ok() ? Status() : std::get<Status>(state_); }

  T& value() & { return std::get<T>(state_); }
  const T& value() const& { return std::get<T>(state_); }
  T&& value() && { return std::get<T>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::variant<T, Status> state_;
};

}  // namespace autoglm
