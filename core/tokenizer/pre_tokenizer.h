#pragma once
/// Pre-tokenizers of tokenizer.json: how normalized text is split into the words that the model sees one by one.
#include <memory>
#include <string_view>
#include <vector>

#include "core/tokenizer/function_ref.h"
#include "core/tokenizer/json_members.h"
#include "core/tokenizer/regex.h"

namespace autoglm::tokenizer {

/// A part of the text on its way through the steps. `text` lives as long as the call that gives it out.
struct Piece {
  std::string_view text;
  bool at_start = false;  ///< begins where the whole input begins
};
using PieceSink = FunctionRef<void(Piece)>;

/// One step; immutable, may be shared between threads.
class PreTokenizerStep {
 public:
  virtual ~PreTokenizerStep() = default;
  virtual void split(Piece piece, RegexScratch& scratch, PieceSink sink) const = 0;
  virtual double growth() const { return 1; }  ///< how many times longer text can become, at most
};

class PreTokenizer {
 public:
  /// Reads "pre_tokenizer" (null gives no steps). kBadInput names what is unknown or broken.
  static Result<PreTokenizer> from_json(const Json* spec);

  /// Isolates the matches of `pattern`, then maps to the byte-level alphabet.
  static Result<PreTokenizer> byte_level(std::string_view pattern);

  /// Calls `sink` for each non-empty word, from left to right.
  void split(Piece piece, RegexScratch& scratch, PieceSink sink) const { run(0, piece, scratch, sink); }

  /// True when the last step maps bytes to the byte-level alphabet. That mapping is then left to the model: the words
  /// are the bytes themselves.
  bool ends_byte_level() const { return ends_byte_level_; }

 private:
  void run(size_t step, Piece piece, RegexScratch& scratch, PieceSink sink) const;

  std::vector<std::unique_ptr<PreTokenizerStep>> steps_;
  bool ends_byte_level_ = false;
};

}  // namespace autoglm::tokenizer
