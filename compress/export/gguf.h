#pragma once
/// gguf: an artifact as one GGUF file for llama.cpp and what is built on it.
///
/// Integers are not rounded again where a GGUF type holds them: symmetric ones of up to 4 bits become Q4_0, of 5 bits
/// Q5_0, of 6 to 8 bits Q8_0, with zero points Q4_1 and Q5_1. Scales become FP16. Norms and biases are F32.
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "compress/export/gguf_file.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/stored_model.h"

namespace autoglm::exports {

struct GgufOptions {
  std::string type = "auto";  ///< of matrices: auto (what holds them as they are), or a word of gguf_types()
  std::string pre;            ///< llama.cpp's pre-tokenizer; "" finds it
};

struct GgufReport {
  std::string architecture;              ///< llama.cpp's word
  int64_t bytes = 0;                     ///< of the file
  std::map<std::string, int64_t> types;  ///< tensors of each
  bool had_activations = false;          ///< the artifact quantizes them, of which the file says nothing
  int64_t weighted = 0;                  ///< of those, rounded by how much each column matters (statistics.st)
  int64_t left_out = 0;                  ///< tensors that are no part of the decoder: vision tower, MTP layers
  int64_t checked = 0;                   ///< tensors read back from the file
  double difference = 0;                 ///< largest |file - artifact| / largest |artifact| of a tensor
};

/// The words of --type.
const std::vector<std::string>& gguf_types();

/// Streams `model` into a file that is to become `output`, and reads it back; the caller publishes it. Nothing is made
/// where the model cannot be exported. Memory: a few MB and the vocabulary. kInvalidArgument: what GGUF or llama.cpp
/// has no place for (named), an output that exists and may not be replaced. kBadInput: a tokenizer that cannot be
/// written, a tensor that cannot be decoded or is beyond the range of its type. kResourceExhausted, kCancelled.
Result<std::pair<GgufFile, GgufReport>> write_gguf(const format::StoredModel& model, const GgufOptions& options,
                                                   const std::filesystem::path& output, bool overwrite,
                                                   CancelToken& cancel);

}  // namespace autoglm::exports
