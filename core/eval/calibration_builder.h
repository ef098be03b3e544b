#pragma once
/// Makes a calibration set of documents: without duplicates, spread over sources, languages and lengths, packed into
/// sequences.
///
///   CalibrationBuilder builder(tokenizer, {.samples = 128, .length = 512}, sizes);
///   for each file: builder.add({name, sha256}, documents, cancel);
///   AUTOGLM_ASSIGN_OR_RETURN(CalibrationSet set, builder.build());
///
/// Long documents are taken in pieces (cut_pieces), each a document of its own. A sequence of the full length is cut
/// from whatever has as many tokens; what is left of a piece is not used; a shorter document gives one shorter
/// sequence. With `join`, documents of one source and language are written one after the other in the order of the
/// draw, and sequences are cut from that.
///
/// Samples go to strata (source x language x length_class) by the square root of the tokens that each has, as `spread`
/// does it: large ones give more, small ones are not lost.
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/eval/calibration_set.h"
#include "core/eval/duplicates.h"
#include "core/eval/random.h"
#include "core/eval/strata.h"
#include "core/tokenizer/tokenizer.h"

namespace autoglm::eval {

struct BuildOptions {
  int64_t samples = 128;  ///< sequences wanted, 1 to kMaxSetSamples
  int64_t length = 512;   ///< tokens of each, at most; kShortestSequence to kMaxSetLength
  bool join = false;      ///< a sequence may go over the end of a document
  uint64_t seed = 0;      ///< which documents are taken, and their order
};

/// The same sources in the same order, options and tokenizer give the same set. Not thread-safe.
class CalibrationBuilder {
 public:
  /// `sizes`: bytes of all files that will be added. Of each as much is looked at as makes enough_text of all together:
  /// small files whole, large ones in part. The tokenizer must outlive the builder.
  CalibrationBuilder(const tokenizer::Tokenizer& tokenizer, const BuildOptions& options, std::vector<int64_t> sizes);

  /// The documents of one file.
  Status add(SetSource source, const std::vector<std::string>& documents, const CancelToken& cancel);

  /// Sequences as they are, none longer than the options say.
  Status add(SetSource source, std::vector<Tokens> sequences, const CancelToken& cancel);

  /// The set; nothing can be added after. Fewer sequences than wanted where the sources have no more.
  /// kBadInput: not a single one.
  Result<CalibrationSet> build();

 private:
  /// Tokens on their way into sequences, and the documents they come from.
  struct Packing {
    Tokens tokens;
    std::vector<int64_t> documents;
    bool cut = false;  ///< some sequence
  };
  struct Candidates {
    std::vector<SetSequence> sequences;
    int64_t tokens = 0;
  };
  using Key = std::tuple<size_t, std::string, int>;  // source, language, length class

  bool is_new(std::string_view document);
  void pack(Packing& packing, const Tokens& tokens, int64_t document, std::string_view language);
  void finish(Packing& packing, std::string_view language);
  void keep(Tokens tokens, std::vector<int64_t> documents, std::string_view language);

  const tokenizer::Tokenizer& tokenizer_;
  BuildOptions options_;
  int64_t most_bytes_;  // of one source
  SplitMix64 random_;
  Duplicates seen_;
  CalibrationSet set_;
  std::vector<double> scale_;  // of each source: all of it, divided by what was looked at
  std::map<Key, Candidates> strata_;
};

}  // namespace autoglm::eval
