#pragma once
/// Text for calibration and evaluation: documents read from files, turned into token sequences, the same way
/// everywhere.
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/eval/scorer.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"

namespace autoglm::eval {

/// Documents in file order. `.txt`: the whole file is one document (a blank-line separated file of 10 MB is still one);
/// `.jsonl`: one per line, member `text`, or `messages` rendered by the chat template, or a task line (system, user,
/// think, answer) rendered as the model answers it; a folder: its .txt and .jsonl files in name order.
/// kBadInput names file and line.
Result<std::vector<std::string>> read_documents(const std::filesystem::path& path, const tokenizer::ChatTemplate* chat);

struct SequenceOptions {
  int64_t count = 128;   ///< sequences wanted; fewer are returned when the text is shorter
  int64_t length = 512;  ///< tokens of each
  uint64_t seed = 0;     ///< which pieces are taken, and their order
};

/// Tokenizes documents, joins them, cuts windows of `length` without overlap and draws `count` of them with the seed.
/// kBadInput: no window can be cut (says how many tokens there are and how many are needed).
Result<std::vector<Tokens>> draw_sequences(const std::vector<std::string>& documents,
                                           const tokenizer::Tokenizer& tokenizer, const SequenceOptions& options);

}  // namespace autoglm::eval
