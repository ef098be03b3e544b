#pragma once
/// A calibration set: token sequences in a file that can be read, used again and known by its hash.
///
/// JSON lines in UTF-8. The first is the header, each further one a sequence, in the order of their use:
///
///   {"calibration_set": 1, "tokenizer": "…", "samples": 128, "length": 512, "seed": 0, "join": false, "documents": …,
///    "duplicates_removed": …, "near_duplicates_removed": …, "too_short": …, "sources": [{"name": "a.txt", "sha256":
///    …}]}
///   {"tokens": [5, …], "text": "…", "source": "a.txt", "language": "latin", "documents": [17]}
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/eval/scorer.h"
#include "core/tokenizer/tokenizer.h"

namespace autoglm::eval {

inline constexpr int64_t kCalibrationSetVersion = 1;
inline constexpr int64_t kMaxSetSamples = 1 << 20;
inline constexpr int64_t kMaxSetLength = 1 << 18;  ///< tokens: a line of them stays below kMaxLineBytes

/// What the sequences of a set come from: a file, or the model ("self").
struct SetSource {
  std::string name;    ///< of the file, without its folder
  std::string sha256;  ///< of the file; "" of the model
};

struct SetSequence {
  Tokens tokens;
  std::string text;  ///< what they say, for people
  std::string source;
  std::string language;            ///< language_of
  std::vector<int64_t> documents;  ///< of the source, counted from 0
};

struct CalibrationSet {
  std::string tokenizer;  ///< vocabulary_hash of what made the tokens
  int64_t samples = 0;    ///< sequences that the file has
  int64_t length = 0;     ///< tokens of each, at most
  uint64_t seed = 0;
  bool join = false;                    ///< sequences may go over the end of a document
  int64_t documents = 0;                ///< looked at: long ones in pieces
  int64_t duplicates_removed = 0;       ///< of these, the same words as an earlier one
  int64_t near_duplicates_removed = 0;  ///< of these, most of an earlier one's words
  int64_t too_short = 0;                ///< of these, fewer tokens than a sequence needs
  std::vector<SetSource> sources;
  std::vector<SetSequence> sequences;

  int64_t tokens() const;
};

/// SHA-256 of every token's id, spelling and kind: tokens mean the same to tokenizers that agree in it.
std::string vocabulary_hash(const tokenizer::Tokenizer& tokenizer);

/// SHA-256 of token sequences, each one's length and ids as 32-bit little-endian integers.
std::string tokens_hash(const std::vector<Tokens>& sequences);

/// Whether the first line of a file is a set's header, of whatever version. False where it cannot be read.
bool is_calibration_set(const std::filesystem::path& path);

/// The header alone.
Result<CalibrationSet> read_set_header(const std::filesystem::path& path);

/// All of it. kBadInput names file and line: no JSON, a member that is missing or wrong, another version, a token that
/// is not below `vocabulary`, fewer or more sequences than the header says.
Result<CalibrationSet> read_calibration_set(const std::filesystem::path& path, int64_t vocabulary);

/// The file's text. The same set gives the same bytes.
std::string to_text(const CalibrationSet& set);

/// Header and strata for people: how many sequences and tokens each source, language and length has.
std::string describe(const CalibrationSet& set);

/// The same for programs: the header, and `strata`.
std::string to_json(const CalibrationSet& set);

}  // namespace autoglm::eval
