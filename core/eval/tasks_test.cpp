#include "core/eval/tasks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/eval/fake_scorer.h"
#include "core/eval/fake_tokenizer.h"
#include "core/eval/test_folder.h"

namespace autoglm::eval {
namespace {

using testing::HasSubstr;

const std::string kDemo = std::string(AUTOGLM_SOURCE_DIR) + "/models/glm-phone-demo";

/// A bigram model over bytes that writes `text` after each character of it has been seen (its characters differ).
FakeScorer writer(const std::string& prompt_end, const std::string& text, char stop) {
  std::vector<std::vector<float>> table(256, std::vector<float>(256, 0));
  const std::string chain = prompt_end.substr(prompt_end.size() - 1) + text + stop;
  for (size_t i = 0; i + 1 < chain.size(); ++i) {
    table[static_cast<unsigned char>(chain[i])][static_cast<unsigned char>(chain[i + 1])] = 5;
  }
  return FakeScorer(table);
}

TEST(ReadTasks, BuildsTheDemoModelsPromptsAsItsCardSays) {
  const auto file = find_tasks(kDemo);
  ASSERT_TRUE(file.has_value());
  const auto chat = tokenizer::ChatTemplate::load(kDemo);
  ASSERT_TRUE(chat.ok()) << chat.status().message();
  const auto tasks = read_tasks(*file, &*chat);
  ASSERT_TRUE(tasks.ok()) << tasks.status().message();
  ASSERT_EQ(tasks->size(), 4000u);
  std::ifstream in(*file);
  std::string line;
  for (const Task& task : *tasks) {
    ASSERT_TRUE(std::getline(in, line));
    const auto json = nlohmann::json::parse(line);
    const std::string system = json["system"], user = json["user"], think = json["think"], answer = json["answer"];
    ASSERT_EQ(task.prompt, "[gMASK]<sop><|system|>\n" + system + "<|user|>\n" + user + "<|assistant|>\n");
    ASSERT_EQ(task.expected, "<think>" + think + "</think>\n" + answer);
    ASSERT_EQ(task.answer, answer);
    ASSERT_EQ(task.kind, json["kind"]);
    ASSERT_EQ(task.lang, json["lang"]);
  }
}

TEST(ReadTasks, TakesRawPromptsWithoutATemplate) {
  const TestFolder folder;
  const auto tasks = read_tasks(folder.write("t.jsonl", R"({"prompt": "2+2=", "answer": "4"})"), nullptr);
  ASSERT_TRUE(tasks.ok());
  EXPECT_EQ(tasks->at(0).prompt, "2+2=");
  EXPECT_EQ(tasks->at(0).expected, "4");
}

TEST(ReadTasks, SaysWhichLineIsWrong) {
  const TestFolder folder;
  const auto message = [&](const std::string& line) {
    const Status status = read_tasks(folder.write("t.jsonl", R"({"prompt": "p", "answer": "a"})"
                                                             "\n" +
                                                                 line),
                                     nullptr)
                              .status();
    EXPECT_EQ(status.code(), StatusCode::kBadInput) << line;
    return status.message();
  };
  EXPECT_THAT(message("{"), HasSubstr("t.jsonl:2: not valid JSON"));
  EXPECT_THAT(message(R"({"prompt": "p"})"), HasSubstr("t.jsonl:2: no member `answer`"));
  EXPECT_THAT(message(R"({"answer": "a"})"), HasSubstr("no member `prompt`, `messages` or `user`"));
  EXPECT_THAT(message(R"({"prompt": 3, "answer": "a"})"), HasSubstr("`prompt` should be a string"));
  EXPECT_THAT(message(R"({"prompt": "p", "answer": "a\nb"})"), HasSubstr("one line"));
  EXPECT_THAT(message(R"({"prompt": "p", "answer": ""})"), HasSubstr("one line"));
  EXPECT_THAT(message(R"({"user": "u", "answer": "a"})"), HasSubstr("chat template"));
  EXPECT_THAT(message(R"({"prompt": "p", "answer": "a", "kind": 1})"), HasSubstr("`kind` should be a string"));
  EXPECT_EQ(read_tasks(folder.write("none.jsonl", "\n"), nullptr).status().code(), StatusCode::kBadInput);
  EXPECT_EQ(read_tasks(folder.path() / "absent.jsonl", nullptr).status().code(), StatusCode::kBadInput);
  EXPECT_FALSE(find_tasks(folder.path()).has_value());
}

TEST(LastLine, IsWhatFollowsTheLastNewline) {
  EXPECT_EQ(last_line("<think>x</think>\ndo(A)"), "do(A)");
  EXPECT_EQ(last_line("do(A)"), "do(A)");
  EXPECT_EQ(last_line("do(A)\n"), "");
  EXPECT_EQ(last_line(""), "");
}

TEST(EvaluateTasks, CountsByKindAndLanguageAndAgainstTheSource) {
  const ByteTokenizer tokenizer;
  FakeScorer source = writer(":", "xy\nabc", '.'), compressed = writer(":", "z\nabd", '.');
  const std::vector<Task> tasks{
      {"tap", "en", "q:", "abc", "abc"}, {"tap", "zh", "r:", "abd", "abd"}, {"type", "en", "s:", "abc", "abc"}};
  CancelToken cancel;
  const auto scores = evaluate_tasks(&source, compressed, tokenizer, tasks, {.stop = {'.'}}, cancel);
  ASSERT_TRUE(scores.ok()) << scores.status().message();
  EXPECT_EQ(scores->count, 3);
  EXPECT_EQ(scores->available, 3);
  EXPECT_EQ(scores->max_new_tokens, 3 + 16);
  EXPECT_EQ(scores->correct, 1);
  EXPECT_EQ(scores->source_correct, 2);
  EXPECT_EQ(scores->agreement, 0);
  EXPECT_NEAR(scores->accuracy(), 1.0 / 3, 1e-15);
  EXPECT_NEAR(*scores->source_accuracy(), 2.0 / 3, 1e-15);
  ASSERT_EQ(scores->groups.size(), 4u);
  EXPECT_EQ(scores->groups[0].name, "kind tap");
  EXPECT_EQ(scores->groups[0].count, 2);
  EXPECT_EQ(scores->groups[0].correct, 1);
  EXPECT_EQ(scores->groups[0].source_correct, 1);
  EXPECT_EQ(scores->groups[1].name, "kind type");
  EXPECT_EQ(scores->groups[2].name, "lang en");
  EXPECT_EQ(scores->groups[3].name, "lang zh");
  EXPECT_EQ(scores->groups[3].source_correct, 0);

  EXPECT_EQ(evaluate_tasks(&source, source, tokenizer, tasks, {.stop = {'.'}}, cancel)->agreement, 1);
  const auto alone = evaluate_tasks(nullptr, compressed, tokenizer, tasks, {.stop = {'.'}}, cancel);
  EXPECT_EQ(alone->source_correct, std::nullopt);
  EXPECT_EQ(alone->agreement, std::nullopt);
  EXPECT_EQ(alone->correct, 1);
}

TEST(EvaluateTasks, DoesNotCountAnAnswerThatIsCutOff) {
  const ByteTokenizer tokenizer;
  FakeScorer model = writer(":", "0123456789ABCDEFGHIJ\nabc", '.');
  CancelToken cancel;
  const std::vector<Task> tasks{{"", "", "q:", "abc", "abc"}};
  EXPECT_EQ(evaluate_tasks(nullptr, model, tokenizer, tasks, {.stop = {'.'}}, cancel)->correct, 0);
}

TEST(EvaluateTasks, DrawsALimitedNumberBySeed) {
  std::vector<Task> tasks;
  for (int i = 0; i < 100; ++i) tasks.push_back({"", "", std::to_string(i), "a", "a"});
  const auto ten = draw_tasks(tasks, 10, 1), twenty = draw_tasks(tasks, 20, 1);
  ASSERT_EQ(ten.size(), 10u);
  for (size_t i = 0; i < 10; ++i) EXPECT_EQ(ten[i].prompt, twenty[i].prompt);
  EXPECT_EQ(draw_tasks(tasks, 0, 1).size(), 100u);
  EXPECT_EQ(draw_tasks(tasks, 1000, 1).size(), 100u);
}

TEST(EvaluateTasks, PassesOnWhatTheScorerSays) {
  const ByteTokenizer tokenizer;
  FakeScorer model = writer(":", "abc", '.');
  model.fits_in_memory = false;
  CancelToken cancel;
  const std::vector<Task> tasks{{"", "", "q:", "abc", "abc"}};
  EXPECT_EQ(evaluate_tasks(nullptr, model, tokenizer, tasks, {}, cancel).status().code(),
            StatusCode::kResourceExhausted);
  cancel.cancel();
  EXPECT_EQ(evaluate_tasks(nullptr, model, tokenizer, tasks, {}, cancel).status().code(), StatusCode::kCancelled);
}

}  // namespace
}  // namespace autoglm::eval
