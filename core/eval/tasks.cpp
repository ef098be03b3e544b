#include "core/eval/tasks.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <system_error>

#include "core/base/progress.h"
#include "core/eval/random.h"
#include "core/eval/text_lines.h"

namespace autoglm::eval {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kPromptsAtOnce = 32;  // between two looks at the cancel token and the clock
constexpr int64_t kSpareTokens = 16;   // a model may put the same answer in other words of the same length

/// A string member; `fallback` when it is absent and may be.
Result<std::string> text_of(const Json& line, const char* name, const char* fallback) {
  const auto found = line.find(name);
  if (found == line.end()) {
    if (fallback != nullptr) return std::string(fallback);
    return bad_input(fmt::format("no member `{}`", name));
  }
  if (!found->is_string()) return bad_input(fmt::format("`{}` should be a string, not {}", name, found->type_name()));
  return found->get<std::string>();
}

void count(std::map<std::string, TaskGroup>& groups, const std::string& name, bool correct,
           const bool* source_correct) {
  TaskGroup& group = groups[name];
  group.name = name;
  ++group.count;
  group.correct += correct ? 1 : 0;
  if (source_correct != nullptr) group.source_correct = group.source_correct.value_or(0) + (*source_correct ? 1 : 0);
}

}  // namespace

bool is_task(const Json& line) {
  return line.is_object() && line.contains("answer") &&
         (line.contains("user") || line.contains("messages") || line.contains("prompt"));
}

Json task_messages(const Json& line) {
  if (line.contains("messages")) return line.at("messages");
  Json messages = Json::array();
  if (line.contains("system")) messages.push_back({{"role", "system"}, {"content", line.at("system")}});
  if (line.contains("user")) messages.push_back({{"role", "user"}, {"content", line.at("user")}});
  return messages;
}

Result<std::string> render_messages(const Json& line, const tokenizer::ChatTemplate* chat, bool add_generation_prompt) {
  if (chat == nullptr) {
    return bad_input("a conversation needs the model's chat template, and the model's folder has none; give `text`");
  }
  const Json messages = task_messages(line);
  if (!messages.is_array() || messages.empty()) return bad_input("`messages` should be a list of at least one message");
  for (const Json& message : messages) {
    if (!message.is_object() || !message.contains("role")) {
      return bad_input("each of `messages` should be an object with `role` and `content`");
    }
  }
  Json variables{{"messages", messages}, {"add_generation_prompt", add_generation_prompt}};
  if (line.contains("tools")) variables["tools"] = line.at("tools");
  return chat->render(variables);
}

Result<Task> parse_task(const Json& line, const tokenizer::ChatTemplate* chat) {
  if (!line.is_object()) return bad_input(fmt::format("a JSON object is expected, not {}", line.type_name()));
  Task task;
  AUTOGLM_ASSIGN_OR_RETURN(task.answer, text_of(line, "answer", nullptr));
  if (task.answer.empty() || task.answer.find('\n') != std::string::npos) {
    return bad_input("`answer` should be one line of text");
  }
  AUTOGLM_ASSIGN_OR_RETURN(task.kind, text_of(line, "kind", ""));
  AUTOGLM_ASSIGN_OR_RETURN(task.lang, text_of(line, "lang", ""));
  AUTOGLM_ASSIGN_OR_RETURN(const std::string think, text_of(line, "think", ""));
  task.expected = think.empty() ? task.answer : "<think>" + think + "</think>\n" + task.answer;
  if (line.contains("prompt")) {
    AUTOGLM_ASSIGN_OR_RETURN(task.prompt, text_of(line, "prompt", nullptr));
  } else if (line.contains("messages")) {
    AUTOGLM_ASSIGN_OR_RETURN(task.prompt, render_messages(line, chat, /*add_generation_prompt=*/true));
  } else if (line.contains("user")) {
    AUTOGLM_RETURN_IF_ERROR(text_of(line, "user", nullptr).status());
    AUTOGLM_RETURN_IF_ERROR(text_of(line, "system", "").status());
    AUTOGLM_ASSIGN_OR_RETURN(task.prompt, render_messages(line, chat, /*add_generation_prompt=*/true));
  } else {
    return bad_input("no member `prompt`, `messages` or `user`");
  }
  if (task.prompt.empty()) return bad_input("the prompt is empty");
  return task;
}

Result<std::vector<Task>> read_tasks(const std::filesystem::path& file, const tokenizer::ChatTemplate* chat) {
  std::vector<Task> tasks;
  AUTOGLM_RETURN_IF_ERROR(for_each_json_line(
      file, [](int64_t) { return true; },
      [&](const Json& line) -> Status {
        AUTOGLM_ASSIGN_OR_RETURN(Task task, parse_task(line, chat));
        tasks.push_back(std::move(task));
        return ok_status();
      }));
  if (tasks.empty()) return bad_input(file.string() + ": there is no task in it");
  return tasks;
}

std::optional<std::filesystem::path> find_tasks(const std::filesystem::path& folder) {
  std::filesystem::path file = folder / "tasks" / "eval.jsonl";
  std::error_code error;
  if (!std::filesystem::is_regular_file(file, error)) return std::nullopt;
  return file;
}

std::vector<Task> draw_tasks(const std::vector<Task>& tasks, int64_t limit, uint64_t seed) {
  const auto available = static_cast<int64_t>(tasks.size());
  std::vector<Task> drawn;
  for (const int64_t i : draw_indices(available, limit > 0 ? limit : available, seed)) {
    drawn.push_back(tasks[static_cast<size_t>(i)]);
  }
  return drawn;
}

std::string_view last_line(std::string_view text) {
  const size_t newline = text.rfind('\n');
  return newline == std::string_view::npos ? text : text.substr(newline + 1);
}

int64_t answer_tokens(const tokenizer::Tokenizer& tokenizer, const std::vector<Task>& tasks) {
  size_t longest = 0;
  for (const Task& task : tasks) longest = std::max(longest, tokenizer.encode(task.expected).size());
  return static_cast<int64_t>(longest) + kSpareTokens;
}

Result<std::vector<std::string>> answer_tasks(Scorer& scorer, const tokenizer::Tokenizer& tokenizer,
                                              const std::vector<Task>& tasks, int64_t max_new_tokens,
                                              const std::vector<int64_t>& stop, CancelToken& cancel) {
  Progress progress("answering tasks", static_cast<int64_t>(tasks.size()));
  std::vector<std::string> answers;
  for (size_t first = 0; first < tasks.size(); first += kPromptsAtOnce) {
    AUTOGLM_RETURN_IF_ERROR(cancel.check());
    std::vector<Tokens> prompts;
    for (size_t i = first; i < std::min(tasks.size(), first + kPromptsAtOnce); ++i) {
      prompts.push_back(tokenizer.encode(tasks[i].prompt));
    }
    AUTOGLM_ASSIGN_OR_RETURN(const std::vector<Tokens> written, scorer.generate(prompts, max_new_tokens, stop, cancel));
    if (written.size() != prompts.size())
      return internal_error("a scorer answered another number of prompts than asked");
    for (const Tokens& tokens : written) answers.emplace_back(last_line(tokenizer.decode(tokens)));
    progress.update(static_cast<int64_t>(answers.size()));
  }
  return answers;
}

TaskScores score_answers(const std::vector<Task>& tasks, const std::vector<std::string>& answers,
                         const std::vector<std::string>* source_answers) {
  TaskScores scores;
  scores.count = static_cast<int64_t>(tasks.size());
  scores.available = scores.count;
  std::map<std::string, TaskGroup> kinds, langs;
  int64_t same = 0, source_correct = 0, lost = 0, gained = 0;
  for (size_t i = 0; i < tasks.size(); ++i) {
    const bool correct = answers[i] == tasks[i].answer;
    const bool source_is_correct = source_answers != nullptr && (*source_answers)[i] == tasks[i].answer;
    const bool* source = source_answers != nullptr ? &source_is_correct : nullptr;
    scores.correct += correct ? 1 : 0;
    source_correct += source_is_correct ? 1 : 0;
    lost += source_is_correct && !correct ? 1 : 0;
    gained += correct && !source_is_correct ? 1 : 0;
    same += source_answers != nullptr && answers[i] == (*source_answers)[i] ? 1 : 0;
    if (!tasks[i].kind.empty()) count(kinds, "kind " + tasks[i].kind, correct, source);
    if (!tasks[i].lang.empty()) count(langs, "lang " + tasks[i].lang, correct, source);
  }
  if (source_answers != nullptr && scores.count > 0) {
    scores.source_correct = source_correct;
    scores.lost = lost;
    scores.gained = gained;
    scores.agreement = static_cast<double>(same) / static_cast<double>(scores.count);
  }
  for (auto* groups : {&kinds, &langs}) {
    for (auto& [name, group] : *groups) scores.groups.push_back(std::move(group));
  }
  return scores;
}

Result<TaskScores> evaluate_tasks(Scorer* source, Scorer& compressed, const tokenizer::Tokenizer& tokenizer,
                                  const std::vector<Task>& tasks, const TaskOptions& options, CancelToken& cancel) {
  const std::vector<Task> drawn = draw_tasks(tasks, options.limit, options.seed);
  const int64_t max_new_tokens = answer_tokens(tokenizer, tasks);
  AUTOGLM_ASSIGN_OR_RETURN(const auto answers,
                           answer_tasks(compressed, tokenizer, drawn, max_new_tokens, options.stop, cancel));
  std::vector<std::string> source_answers;
  if (source != nullptr) {
    AUTOGLM_ASSIGN_OR_RETURN(source_answers,
                             answer_tasks(*source, tokenizer, drawn, max_new_tokens, options.stop, cancel));
  }
  TaskScores scores = score_answers(drawn, answers, source != nullptr ? &source_answers : nullptr);
  scores.available = static_cast<int64_t>(tasks.size());
  scores.max_new_tokens = max_new_tokens;
  return scores;
}

}  // namespace autoglm::eval
