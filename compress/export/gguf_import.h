#pragma once
/// gguf_import: a GGUF file back as a plain Hugging Face folder, from which all else of this program starts.
///
/// Integers become the floats that they stand for; rows, names, config.json, tokenizer and chat template become
/// transformers' again. What llama.cpp and transformers compute differently (scaled rotary frequencies, sentencepiece
/// vocabularies) is refused by name.
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "compress/export/gguf_reader.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/checkpoint_writer.h"

namespace autoglm::exports {

struct GgufImportReport {
  std::string architecture;  ///< llama.cpp's word
  std::string family;        ///< ours
  format::DType dtype = format::DType::kF16;
  std::map<std::string, int64_t> types;  ///< tensors of each in the file
  int64_t left_out = 0;                  ///< tensors that are no part of the decoder (MTP layers)
  int64_t checked = 0;                   ///< tensors read back, all as the file says
  double rounding = 0;                   ///< largest |written - file| / largest |file| of a tensor
};

/// The type that the floats of a file are written in unless another is asked for: its own where all matrices are
/// floats of one type, else F16, which scales are in.
format::DType usual_dtype(const GgufReader& reader);

/// Streams the file into `writer`, finishes it and reads every tensor back; the caller commits. Memory: a few MB and
/// the vocabulary. kBadInput: an architecture, a tokenizer or a kind of rotary that is not read (named), a tensor that
/// is missing or of another shape, a value beyond the range of the type. kResourceExhausted, kCancelled.
Result<GgufImportReport> import_gguf(const GgufReader& reader, std::optional<format::DType> dtype,
                                     format::CheckpointWriter& writer, CancelToken& cancel);

}  // namespace autoglm::exports
