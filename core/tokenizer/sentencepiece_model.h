#pragma once
/// The protobuf of a sentencepiece model, checked before libsentencepiece sees it.
///
/// What is read (sentencepiece_model.proto): pieces = 1 {piece = 1, score = 2, type = 3}, trainer_spec = 2
/// {model_type = 3 (1 unigram, 2 bpe), bos_id = 41, eos_id = 42, unk_surface = 44}, normalizer_spec = 3
/// {precompiled_charsmap = 2, add_dummy_prefix = 3, remove_extra_whitespaces = 4}, denormalizer_spec = 5
/// {precompiled_charsmap = 2}.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace autoglm::tokenizer {

struct SentencePieceModel {
  enum class Type { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
  struct Piece {
    std::string text;
    float score = 0;
    Type type = Type::kNormal;
  };
  std::vector<Piece> pieces;
  int32_t bos_id = 1;  ///< -1 for none
  int32_t eos_id = 2;
  std::string unk_surface = " \xE2\x81\x87 ";  ///< what an unknown piece decodes to
  bool is_bpe = false;
  bool has_charsmap = false;  ///< text is normalized by a table of its own
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
};

/// Checks the wire format, every piece, and the tables of the normalizer, whose offsets the library does not check.
/// kBadInput says what is broken.
Result<SentencePieceModel> parse_sentencepiece_model(std::string_view bytes);

}  // namespace autoglm::tokenizer
