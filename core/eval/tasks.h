#pragma once
/// Tasks: prompts with one right answer, for measuring what a model can still do.
///
/// A task file is JSON lines, each an object with `answer` (one line of text) and the prompt as one of
///   `prompt`             the exact text, special tokens written out
///   `messages`           a conversation for the chat template (and `tools`, optional)
///   `system`, `user`     the same in short; `system` is optional
/// and, all optional, `think` (what the model is expected to write before the answer), `kind` and `lang` (groups).
/// A task counts when the last line of the model's greedy text, up to the end token, equals `answer`.
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/eval/scorer.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"

namespace autoglm::eval {

struct Task {
  std::string kind, lang;  ///< "" where the file does not say
  std::string prompt;      ///< text up to where the model goes on
  std::string answer;
  std::string expected;  ///< the whole text a right model is expected to write: its length bounds the generation
};

/// Reads a task file; prompts are rendered by `chat` (which may be null when every line has `prompt`). kBadInput names
/// file and line.
Result<std::vector<Task>> read_tasks(const std::filesystem::path& file, const tokenizer::ChatTemplate* chat);

/// FOLDER/tasks/eval.jsonl where it exists.
std::optional<std::filesystem::path> find_tasks(const std::filesystem::path& folder);

/// Is this JSON line a task (has `answer`, and `user` or `messages` or `prompt`)?
bool is_task(const nlohmann::ordered_json& line);

/// Parses one line's object. kBadInput says which member is missing or of the wrong type.
Result<Task> parse_task(const nlohmann::ordered_json& line, const tokenizer::ChatTemplate* chat);

/// The conversation of a line: `messages`, or `system` and `user` as one.
nlohmann::ordered_json task_messages(const nlohmann::ordered_json& line);

/// Renders a line's conversation (and its `tools`). kBadInput: no template, messages that are no list of objects, or
/// what the template says.
Result<std::string> render_messages(const nlohmann::ordered_json& line, const tokenizer::ChatTemplate* chat,
                                    bool add_generation_prompt);

/// The first `limit` tasks (0: all) of a random order given by `seed`: a smaller selection is the start of a larger
/// one.
std::vector<Task> draw_tasks(const std::vector<Task>& tasks, int64_t limit, uint64_t seed);

/// Text after the last newline, or all of it.
std::string_view last_line(std::string_view text);

/// Greedy answers (last lines) of `scorer`, one per task. Generates at most as many tokens as the longest `expected`
/// text of all tasks has, and 16 more. Tasks are given to the scorer a few at a time.
Result<std::vector<std::string>> answer_tasks(Scorer& scorer, const tokenizer::Tokenizer& tokenizer,
                                              const std::vector<Task>& tasks, int64_t max_new_tokens,
                                              const std::vector<int64_t>& stop, CancelToken& cancel);

/// Tokens that answering takes at most: the longest expected text and 16 more.
int64_t answer_tokens(const tokenizer::Tokenizer& tokenizer, const std::vector<Task>& tasks);

struct TaskGroup {
  std::string name;  ///< "kind tap", "lang zh"
  int64_t count = 0;
  int64_t correct = 0;
  std::optional<int64_t> source_correct;  ///< none without a source
};

struct TaskScores {
  int64_t count = 0;
  int64_t available = 0;  ///< tasks there were to choose from
  int64_t max_new_tokens = 0;
  int64_t correct = 0;
  std::optional<int64_t> source_correct;
  std::optional<int64_t> lost, gained;  ///< tasks that only the source, or only the compressed model, got right
  std::optional<double> agreement;      ///< share of tasks where the compressed model's last line is the source's
  std::vector<TaskGroup> groups;        ///< by kind, then by lang, in order of name

  double accuracy() const { return count > 0 ? static_cast<double>(correct) / static_cast<double>(count) : 0; }
  std::optional<double> source_accuracy() const {
    if (!source_correct || count == 0) return std::nullopt;
    return static_cast<double>(*source_correct) / static_cast<double>(count);
  }
};

/// Counts. `source_answers` may be null; otherwise both have one answer per task.
TaskScores score_answers(const std::vector<Task>& tasks, const std::vector<std::string>& answers,
                         const std::vector<std::string>* source_answers);

struct TaskOptions {
  int64_t limit = 0;  ///< tasks drawn; 0: all
  uint64_t seed = 0;
  std::vector<int64_t> stop;  ///< end tokens (ModelConfig::eos_token_ids)
};

/// Draws, answers and counts; `source` may be null. Errors as Scorer::generate.
Result<TaskScores> evaluate_tasks(Scorer* source, Scorer& compressed, const tokenizer::Tokenizer& tokenizer,
                                  const std::vector<Task>& tasks, const TaskOptions& options, CancelToken& cancel);

}  // namespace autoglm::eval
