#include "core/eval/evaluate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/eval/fake_scorer.h"
#include "core/eval/fake_tokenizer.h"
#include "core/eval/random.h"

namespace autoglm::eval {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<std::vector<float>> random_table(uint64_t seed) {
  SplitMix64 random(seed);
  std::vector<std::vector<float>> table(256, std::vector<float>(256));
  for (auto& row : table) {
    for (float& x : row) x = static_cast<float>(random.below(1000)) / 200;
  }
  return table;
}

/// Two models on one clock that only their work moves.
struct Bench {
  double clock = 1000;
  FakeScorer source{random_table(1)}, compressed{random_table(2)};
  ByteTokenizer tokenizer;
  EvaluateInputs inputs;
  EvaluateOptions options;
  CancelToken cancel;

  Bench() {
    source.clock = compressed.clock = &clock;
    SplitMix64 random(3);
    for (int i = 0; i < 50; ++i) {
      Tokens tokens(64);
      for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(256));
      inputs.sequences.push_back(tokens);
    }
    for (int i = 0; i < 1000; ++i) inputs.tasks.push_back({"", "", "question " + std::to_string(i), "abcd", "abcd"});
    inputs.tokenizer = &tokenizer;
    options.now = [this] { return clock; };
  }

  void set_speed(double per_call, double per_token) {
    source.seconds_per_call = compressed.seconds_per_call = per_call;
    source.seconds_per_token = compressed.seconds_per_token = per_token;
  }

  Evaluation run() {
    auto result = evaluate(&source, compressed, inputs, options, cancel);
    if (!result.ok()) ADD_FAILURE() << result.status().message();
    return std::move(result).value();
  }
};

TEST(Evaluate, FullTakesEverything) {
  Bench bench;
  bench.options.level = VerifyLevel::kFull;
  const Evaluation e = bench.run();
  EXPECT_EQ(e.level, "full");
  EXPECT_EQ(e.text.sequences, 50);
  EXPECT_EQ(e.text.length, 64);
  EXPECT_EQ(e.divergence->positions, 50 * 63);
  EXPECT_EQ(e.tasks->count, 1000);
  EXPECT_EQ(e.latency->steps, 100);
  EXPECT_DOUBLE_EQ(e.latency->milliseconds_per_token, 2.5);
  EXPECT_THAT(e.notes, IsEmpty());
  EXPECT_FALSE(e.seconds_allowed.has_value());
  EXPECT_GT(e.seconds, 0);

  const auto whole = compare(bench.source, bench.compressed, bench.inputs.sequences, bench.cancel);
  EXPECT_NEAR(e.divergence->kl_mean, whole->kl_mean, 1e-12);
  EXPECT_EQ(e.divergence->kl_p99, whole->kl_p99);
}

TEST(Evaluate, FastTakesEverythingWhereThereIsTime) {
  Bench bench;
  bench.set_speed(0.001, 1e-6);
  bench.options.seconds = 60;
  const Evaluation e = bench.run();
  EXPECT_EQ(e.text.sequences, 50);
  EXPECT_EQ(e.tasks->count, 1000);
  EXPECT_EQ(e.latency->steps, 100);
  EXPECT_THAT(e.notes, IsEmpty());
  EXPECT_LT(e.seconds, 60);
  EXPECT_EQ(e.seconds_allowed, 60);
}

TEST(Evaluate, FastStaysWithinItsTimeAtAnySpeed) {
  for (const double per_call : {0.0, 0.5, 3.0}) {
    for (const double per_token : {1e-6, 1e-3, 1e-2}) {
      for (const double seconds : {2.0, 10.0, 60.0}) {
        Bench bench;
        bench.set_speed(per_call, per_token);
        bench.options.seconds = seconds;
        const Evaluation e = bench.run();
        const double probe = 2 * (per_call + kProbeTokens * per_token);  // cannot be left out
        EXPECT_LE(e.seconds, std::max(seconds, probe) + 1e-6) << per_call << " " << per_token << " " << seconds;
        EXPECT_GE(e.divergence->positions, kProbeTokens - 1);
        if (e.text.sequences < 50) {
          EXPECT_THAT(e.notes, Contains(HasSubstr("text: ")));
        }
        if (!e.tasks || e.tasks->count < 1000) {
          EXPECT_THAT(e.notes, Contains(HasSubstr("tasks: ")));
        }
        if (!e.latency || e.latency->steps < 100) {
          EXPECT_THAT(e.notes, Contains(HasSubstr("time per token: ")));
        }
        if (e.tasks) {
          EXPECT_GE(e.tasks->count, kFirstTasks);
        }
        if (e.latency) {
          EXPECT_GE(e.latency->steps, kFirstLatencySteps);
        }
      }
    }
  }
}

TEST(Evaluate, FastUsesMostOfItsTimeWhereThereIsWork) {
  for (const double per_token : {1e-3, 3e-3}) {
    for (const double seconds : {3.0, 10.0, 20.0, 60.0}) {
      for (const bool with_tasks : {false, true}) {
        Bench bench;
        bench.set_speed(0, per_token);
        bench.options.seconds = seconds;
        if (!with_tasks) bench.inputs.tasks.clear();
        const Evaluation e = bench.run();
        const bool all = e.text.sequences == 50 && (!with_tasks || e.tasks->count == 1000);
        EXPECT_TRUE(all || e.seconds >= 0.6 * seconds) << per_token << " " << seconds << " took " << e.seconds;
        EXPECT_LE(e.seconds, seconds);
      }
    }
  }
}

TEST(Evaluate, CountsHaveThreeSignificantBits) {
  Bench bench;
  bench.set_speed(0, 1e-3);
  bench.options.seconds = 10;
  const Evaluation e = bench.run();
  EXPECT_EQ(e.text.sequences, 32);
  EXPECT_EQ(e.tasks->count, 80);
  EXPECT_THAT(e.notes, Contains("text: 32 of 50 sequences, to stay within the time"));
}

TEST(Evaluate, ASlowFirstCallDoesNotSetThePace) {
  Bench bench;
  bench.set_speed(0, 1e-4);
  bench.options.seconds = 20;
  bench.source.pace = bench.compressed.pace = [](int64_t call) { return call == 0 ? 300.0 : 1.0; };  // a second
  const Evaluation e = bench.run();
  EXPECT_EQ(e.text.sequences, 50);
  EXPECT_EQ(e.tasks->count, 1000);
  EXPECT_EQ(e.latency->steps, 100);
  EXPECT_THAT(e.notes, IsEmpty());
}

TEST(Evaluate, TheTimeIsUsedWhereThePaceDiffersFromTheProbes) {
  for (const double later : {0.1, 0.5, 3.0}) {
    for (const int64_t from : {2, 4, 12, 40}) {
      Bench bench;
      bench.set_speed(0, 2e-3);
      bench.options.seconds = 20;
      bench.source.pace = bench.compressed.pace = [=](int64_t call) { return call < from ? 1.0 : later; };
      const Evaluation e = bench.run();
      const bool all = e.text.sequences == 50 && e.tasks && e.tasks->count == 1000;
      EXPECT_TRUE(all || e.seconds >= 0.6 * 20) << later << " from " << from << " took " << e.seconds;
      EXPECT_LE(e.seconds, 20) << later << " from " << from;
    }
  }
}

/// With tasks that the source does right, and a bound on the loss.
struct JudgedBench : Bench {
  JudgedBench() {
    options.max_loss = 0.03;
    for (size_t i = 0; i < inputs.tasks.size(); ++i) {
      Task& task = inputs.tasks[i];
      task.prompt = std::string(1, static_cast<char>('a' + i % 26));
      task.answer = answer_tasks(source, tokenizer, {task}, 20, {}, cancel)->front();
    }
  }
};

TEST(Evaluate, ABoundOnTheLossIsJudgedByTasksAtAnySpeed) {
  for (const double per_token : {1e-6, 1e-3, 1e-1}) {
    JudgedBench bench;
    bench.set_speed(0, per_token);
    bench.options.seconds = 5;
    const Evaluation e = bench.run();
    ASSERT_TRUE(e.tasks.has_value()) << per_token;
    EXPECT_GE(e.tasks->count, kContractTasks);
    EXPECT_EQ(e.contract->measure, "task accuracy");
  }
}

TEST(Evaluate, ABoundThatTextJudgesHasItsLeastTextAtAnySpeed) {
  for (const double per_token : {1e-3, 1e-1}) {
    for (const bool by_divergence : {true, false}) {
      Bench bench;
      bench.set_speed(0, per_token);
      bench.options.seconds = 0.5;
      if (by_divergence) {
        bench.options.max_kl = 1;
      } else {
        bench.options.max_loss = 0.5;
        bench.inputs.tasks.clear();
      }
      const Evaluation e = bench.run();
      EXPECT_EQ(e.text.sequences * e.text.length, kContractTokens) << per_token;
      EXPECT_EQ(e.divergence->positions, 32 * 63);
    }
  }
}

TEST(Evaluate, TheLeastTextOfABoundMayBeABeginning) {
  Bench bench;
  bench.set_speed(0, 1e-1);
  bench.options.seconds = 0.5;
  bench.options.max_kl = 1;
  bench.inputs.sequences = {Tokens(5000, 7)};
  EXPECT_EQ(bench.run().divergence->positions, kContractTokens - 1);
}

TEST(Evaluate, FewerTasksThanABoundWantsAreAllAsked) {
  JudgedBench bench;
  bench.set_speed(0, 1e-1);
  bench.options.seconds = 5;
  bench.inputs.tasks.resize(20);
  EXPECT_EQ(bench.run().tasks->count, 20);
}

TEST(Evaluate, ScoresFewerSequencesTogetherWhereMemoryIsShort) {
  Bench bench;
  bench.options.level = VerifyLevel::kFull;
  bench.source.most_tokens = 200;  // three sequences
  EXPECT_EQ(bench.run().text.sequences, 50);
  EXPECT_EQ(bench.source.calls, 25);  // 16,384 tokens halved to 128 hold two
}

TEST(Evaluate, LeavesTextOutWhereMemoryHoldsNoBlock) {
  for (const VerifyLevel level : {VerifyLevel::kFast, VerifyLevel::kFull}) {
    Bench bench;
    bench.options.level = level;
    bench.compressed.most_tokens = 63;
    bench.compressed.fits_in_memory = bench.source.fits_in_memory = false;
    const auto demo = format::StoredModel::open(std::string(AUTOGLM_SOURCE_DIR) + "/models/glm-phone-demo");
    bench.inputs.compressed_files = bench.inputs.source_files = &*demo;
    const Evaluation e = bench.run();
    EXPECT_FALSE(e.divergence || e.tasks || e.latency);
    EXPECT_TRUE(e.weights.has_value());
    EXPECT_EQ(e.text.sequences, 0);
    EXPECT_THAT(e.notes, Contains("text: not measured: a block needs 9 GB in memory, 4 GB are allowed"));

    bench.options.max_loss = 0.03;
    const Status status = evaluate(&bench.source, bench.compressed, bench.inputs, bench.options, bench.cancel).status();
    EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
    EXPECT_THAT(status.message(), HasSubstr("the loss cannot be measured: a block needs 9 GB"));
  }
}

TEST(Evaluate, SaysWhatMemoryItTook) {
  Bench bench;
  EXPECT_GT(bench.run().peak_rss_bytes, 1'000'000);
}

TEST(Evaluate, FewerSequencesAreTheBeginningOfMore) {
  Bench bench;
  bench.set_speed(0, 1e-3);
  bench.options.seconds = 10;
  const Evaluation e = bench.run();
  const std::vector<Tokens> beginning(bench.inputs.sequences.begin(),
                                      bench.inputs.sequences.begin() + e.text.sequences);
  EXPECT_NEAR(e.divergence->kl_mean, compare(bench.source, bench.compressed, beginning, bench.cancel)->kl_mean, 1e-12);
}

TEST(Evaluate, TakesTheBeginningOfASequenceWhenAWholeOneIsTooLong) {
  Bench bench;
  bench.inputs.sequences = {Tokens(4096, 7)};
  bench.inputs.tasks.clear();
  bench.set_speed(0, 1e-3);
  bench.options.seconds = 2;
  const Evaluation e = bench.run();
  EXPECT_EQ(e.text.sequences, 1);
  EXPECT_EQ(e.text.length, 640);
  EXPECT_LE(e.seconds, 2);
  EXPECT_THAT(e.notes, Contains("text: only the first 640 tokens of one sequence, to stay within the time"));
}

TEST(Evaluate, WorksWithoutASource) {
  Bench bench;
  bench.options.level = VerifyLevel::kFull;
  const auto e = evaluate(nullptr, bench.compressed, bench.inputs, bench.options, bench.cancel);
  ASSERT_TRUE(e.ok());
  EXPECT_FALSE(e->divergence.has_value());
  EXPECT_NEAR(*e->perplexity, *perplexity(bench.compressed, bench.inputs.sequences, bench.cancel), 1e-9);
  EXPECT_FALSE(e->tasks->source_correct.has_value());
  EXPECT_FALSE(e->latency->source_milliseconds_per_token.has_value());

  bench.options.max_loss = 0.03;
  EXPECT_EQ(evaluate(nullptr, bench.compressed, bench.inputs, bench.options, bench.cancel).status().code(),
            StatusCode::kInvalidArgument);
}

TEST(Evaluate, LatencyEndsWithTheContext) {
  Bench bench;
  bench.options.level = VerifyLevel::kFull;
  bench.compressed.most_steps = 7;
  const Evaluation e = bench.run();
  EXPECT_EQ(e.latency->steps, 7);
  EXPECT_DOUBLE_EQ(e.latency->milliseconds_per_token, 2.5);
}

TEST(Evaluate, NotesModelsThatDoNotFitIntoMemory) {
  Bench bench;
  bench.options.level = VerifyLevel::kFull;
  bench.source.fits_in_memory = false;
  const Evaluation e = bench.run();
  EXPECT_TRUE(e.divergence.has_value());
  EXPECT_FALSE(e.tasks.has_value());
  EXPECT_TRUE(e.latency.has_value());
  EXPECT_FALSE(e.latency->source_milliseconds_per_token.has_value());
  EXPECT_THAT(e.notes, Contains(HasSubstr("time per token: not measured for the source: the model needs 9 GB")));
  EXPECT_THAT(e.notes, Contains(HasSubstr("tasks: not measured: the model needs 9 GB")));
}

TEST(Evaluate, FillsTheContract) {
  Bench bench;
  bench.options.level = VerifyLevel::kFull;
  bench.options.max_loss = 0.03;
  bench.inputs.tasks.clear();
  const Evaluation e = bench.run();
  EXPECT_EQ(e.contract->measure, "top-1 agreement");
  EXPECT_NEAR(e.contract->loss, 1 - e.divergence->top1_agreement, 1e-15);
  EXPECT_FALSE(e.contract->holds);
}

TEST(Evaluate, MeasuresOnlySizesAtLevelNone) {
  Bench bench;
  const auto demo = format::StoredModel::open(std::string(AUTOGLM_SOURCE_DIR) + "/models/glm-phone-demo");
  ASSERT_TRUE(demo.ok()) << demo.status().message();
  bench.inputs.compressed_files = bench.inputs.source_files = &*demo;
  bench.options.level = VerifyLevel::kNone;
  const Evaluation none = bench.run();
  EXPECT_FALSE(none.divergence || none.tasks || none.latency || none.weights);
  EXPECT_EQ(none.sizes->source_file_bytes, 16'813'920);
  bench.options.level = VerifyLevel::kFast;
  EXPECT_EQ(bench.run().weights->tensors.size(), 0u);
}

TEST(Evaluate, PassesErrorsOn) {
  Bench bench;
  bench.inputs.sequences.push_back({5});
  EXPECT_EQ(evaluate(&bench.source, bench.compressed, bench.inputs, bench.options, bench.cancel).status().code(),
            StatusCode::kInvalidArgument);
  bench.inputs.sequences = {{5, 999}};
  EXPECT_EQ(evaluate(&bench.source, bench.compressed, bench.inputs, bench.options, bench.cancel).status().code(),
            StatusCode::kBadInput);
  bench.cancel.cancel();
  EXPECT_EQ(evaluate(&bench.source, bench.compressed, bench.inputs, bench.options, bench.cancel).status().code(),
            StatusCode::kCancelled);
}

TEST(VerifyLevel, KnowsItsWords) {
  for (const VerifyLevel level : {VerifyLevel::kNone, VerifyLevel::kFast, VerifyLevel::kFull}) {
    EXPECT_EQ(*parse_verify_level(to_string(level)), level);
  }
  EXPECT_THAT(parse_verify_level("quick").status().message(), HasSubstr("Known: none, fast, full"));
}

}  // namespace
}  // namespace autoglm::eval
