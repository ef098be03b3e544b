#pragma once
/// HiddenStates: one vector per calibration token, carried from block to block. In memory up to a limit, the rest in an
/// unlinked temporary file, so that they vanish with the process whatever happens to it.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <vector>

#include "core/base/status.h"

namespace autoglm::calibrate {

/// Not thread-safe.
class HiddenStates {
 public:
  /// Room for sequences of these lengths, `width` numbers of `type` for each token. At most `memory_limit` bytes are
  /// held in memory (whole sequences, the first ones); the rest goes into a file in `folder`.
  /// kResourceExhausted: the file cannot be made.
  static Result<HiddenStates> create(std::vector<int64_t> lengths, int64_t width, at::ScalarType type,
                                     int64_t memory_limit, const std::filesystem::path& folder);

  HiddenStates() = default;
  HiddenStates(HiddenStates&& other) noexcept;
  HiddenStates& operator=(HiddenStates&& other) noexcept;
  ~HiddenStates();

  /// Sequences [first, first + count), all of one length, as [count, length, width] on the CPU. A view where they lie
  /// in memory: valid until they are put again, not to be written to.
  Result<at::Tensor> get(int64_t first, int64_t count) const;

  /// Stores them; `states` is [count, length, width] of any device and float type. kResourceExhausted: disk full.
  Status put(int64_t first, const at::Tensor& states);

  int64_t sequences() const { return static_cast<int64_t>(lengths_.size()); }
  const std::vector<int64_t>& lengths() const { return lengths_; }
  int64_t spilled_bytes() const { return spilled_; }
  bool empty() const { return lengths_.empty(); }

 private:
  int64_t bytes_of(int64_t first, int64_t count) const;

  std::vector<int64_t> lengths_;
  std::vector<int64_t> offsets_;  ///< first token of each sequence, and of the end
  int64_t width_ = 0;
  at::Tensor memory_;     ///< [tokens of the resident sequences, width]
  int64_t resident_ = 0;  ///< sequences in memory
  int64_t spilled_ = 0;
  int file_ = -1;
};

/// A run of neighbouring sequences of one length.
struct Batch {
  int64_t first = 0, count = 0, length = 0;
  int64_t tokens() const { return count * length; }
};

/// Cuts sequences into batches of at most `tokens` tokens (at least one sequence each).
std::vector<Batch> cut_batches(const std::vector<int64_t>& lengths, int64_t tokens);

}  // namespace autoglm::calibrate
