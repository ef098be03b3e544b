// Calibration sets: what is read is within bounds, and is written and read again as the same set.
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/eval/calibration_set.h"
#include "tests/fuzz/require.h"
#include "tests/fuzz/scratch.h"

using namespace autoglm;

namespace {

constexpr int64_t kVocabulary = 1000;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = fuzz::scratch_file("set.jsonl", data, size);
  const auto set = eval::read_calibration_set(file, kVocabulary);
  if (!set.ok()) {
    require(set.status().message().find("set.jsonl") != std::string::npos);
    require(set.status().message().find('\n') == std::string::npos);
    return 0;
  }
  require(eval::is_calibration_set(file) && !set->sequences.empty());
  require(static_cast<int64_t>(set->sequences.size()) == set->samples);
  for (const auto& sequence : set->sequences) {
    require(sequence.tokens.size() >= 2 && static_cast<int64_t>(sequence.tokens.size()) <= set->length);
    for (const int32_t token : sequence.tokens) require(token >= 0 && token < kVocabulary);
  }
  require(!eval::describe(*set).empty() && !eval::to_json(*set).empty());
  const std::string text = eval::to_text(*set);
  const auto again = eval::read_calibration_set(
      fuzz::scratch_file("again.jsonl", reinterpret_cast<const uint8_t*>(text.data()), text.size()), kVocabulary);
  require(again.ok() && eval::to_text(*again) == text);
  return 0;
}
