#pragma once
/// Text for calibration and evaluation: documents read from files, turned into token sequences, the same way
/// everywhere.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/eval/scorer.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"

namespace autoglm::eval {

/// Text read at most from one file; of a larger one, 64 pieces evenly spaced over it (a `.txt`) or every k-th line (a
/// `.jsonl`) are taken, and a warning says so.
inline constexpr int64_t kMaxTextBytes = 64 << 20;

/// Tokens that a sequence has at least, where text is short.
inline constexpr int64_t kShortestSequence = 16;

/// Bytes of text that are surely enough for so many sequences: more than any tokenizer takes for ordinary text, several
/// times over.
inline int64_t enough_text(int64_t sequences, int64_t length) {
  return std::max<int64_t>(4 << 20, sequences * length * 32);
}

/// The files that text named `path` is read from: itself, or the .txt and .jsonl files of a folder in name order,
/// subfolders left out. kBadInput: not there, a folder without any, a file of another kind.
Result<std::vector<std::filesystem::path>> text_files(const std::filesystem::path& path);

/// Documents in file order. `.txt`: the whole file is one document (a blank-line separated file of 10 MB is still one);
/// `.jsonl`: one per line, member `text`, or `messages` rendered by the chat template, or a task line (system, user,
/// think, answer) rendered as the model answers it; a folder: its text_files. Documents are not empty, and plain text
/// ends with a newline. Invalid UTF-8 becomes U+FFFD, a byte order mark is dropped, blank lines of a .jsonl are
/// skipped. `chat` may be null where no line needs it. kBadInput names file and line.
Result<std::vector<std::string>> read_documents(const std::filesystem::path& path, const tokenizer::ChatTemplate* chat,
                                                int64_t max_file_bytes = kMaxTextBytes);

/// The same of files that `text_files` gave; there may be no text in them.
Result<std::vector<std::string>> read_files(const std::vector<std::filesystem::path>& files,
                                            const tokenizer::ChatTemplate* chat,
                                            int64_t max_file_bytes = kMaxTextBytes);

/// Pieces of at most `most` bytes (at least 4), cut at line ends where there are any, else between characters.
std::vector<std::string_view> cut_pieces(std::string_view document, size_t most);

struct HeldOut {
  std::vector<std::string> calibration, evaluation;
};

/// Splits documents into two that share no text: pieces of at most 64 KiB, or a tenth of text that is shorter than ten
/// such, cut at line ends, of which a share (0..1, at least one piece where there are two) chosen by the seed is held
/// out for evaluation. Both keep the order. A rest of less than half a
/// piece goes with the one before. A single document of under 384 bytes gives an empty `evaluation`.
HeldOut hold_out(const std::vector<std::string>& documents, double share, uint64_t seed);

struct SequenceOptions {
  int64_t count = 128;   ///< sequences wanted; fewer are returned when the text is shorter
  int64_t length = 512;  ///< tokens of each
  uint64_t seed = 0;     ///< which pieces are taken, and their order
  bool allow_short =
      false;  ///< text shorter than one sequence gives one shorter one, of at least kShortestSequence (evaluation)
  const char* shorten_with = "--calibration-length";  ///< the option that an error names
};

/// Tokenizes documents, joins them, cuts windows of `length` tokens without overlap and draws `count` of them with the
/// seed: the first `count` steps of a Fisher-Yates shuffle (random.h), so that fewer windows are the start of more.
/// What is left after the last whole window is not used. No special tokens are added.
///
/// Text of over 32 bytes per wanted token (and 4 MiB) is not tokenized whole: the documents are cut into pieces of at
/// most 64 KiB at line ends, and as many as are enough are drawn with the seed and put in their old order.
///
/// kBadInput: no window can be cut (says how many tokens there are and how many are needed).
Result<std::vector<Tokens>> draw_sequences(const std::vector<std::string>& documents,
                                           const tokenizer::Tokenizer& tokenizer, const SequenceOptions& options);

}  // namespace autoglm::eval
