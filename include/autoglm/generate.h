#pragma once
/// generate(): text from a checkpoint, to see what it says. The runtime is the fast way; this is the reference.
#include <autoglm/cancel.h>
#include <autoglm/status.h>

#include <cstdint>
#include <functional>
#include <string>

namespace autoglm {

struct GenerateOptions {
  std::string model;
  std::string prompt;
  std::string system;  ///< system message, with the chat template
  bool raw = false;    ///< continue the prompt as it is, without the chat template
  int64_t max_new_tokens = 256;
  double temperature = 0;  ///< 0: greedy
  int64_t top_k = 0;       ///< 0: all
  double top_p = 1;
  uint64_t seed = 0;
  int64_t max_ram = 0;
  int threads = 0;
  std::string device = "cpu";
  std::string compute = "fp32";
};

struct GenerateOutcome {
  std::string text;
  int64_t prompt_tokens = 0, new_tokens = 0;
  double seconds = 0;
};

/// Calls `on_text` with each piece as it becomes certain (never half a character); it may be empty.
Result<GenerateOutcome> generate(const GenerateOptions& options,
                                 const std::function<void(const std::string&)>& on_text = {},
                                 CancelToken& cancel = CancelToken::global());

}  // namespace autoglm
