/// From a checkpoint to a written folder and back, with the methods of this room, on every family.
#include "compress/pass/pipeline.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "compress/calibrate/self_sample.h"
#include "compress/model/torch_scorer.h"
#include "compress/quant/grid.h"
#include "compress/quant/pipeline_testing.h"
#include "core/base/memory.h"
#include "core/eval/dataset.h"
#include "core/eval/metrics.h"

namespace autoglm::quant {
namespace {

namespace fs = std::filesystem;
using namespace testing;  // NOLINT(google-build-using-namespace): this room's own helpers
using ::testing::HasSubstr;

/// [length, hidden] after the last block.
at::Tensor states_of(const model::Decoder& decoder, const eval::Tokens& tokens) {
  at::Tensor hidden = decoder.embed(tokens).value();
  const model::Rotary rotary = decoder.rotary(hidden.size(1));
  for (int64_t layer = 0; layer < decoder.config().num_hidden_layers; ++layer) {
    hidden = model::forward(decoder.config(), decoder.load_block(layer).value(), rotary, hidden);
  }
  return hidden[0];
}

at::Tensor logits_of(const fs::path& folder, const eval::Tokens& tokens) {
  const model::Decoder decoder = model::Decoder::open(folder).value();
  return decoder.logits(states_of(decoder, tokens)).value();
}

double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  return (actual - expected).norm().item<double>() / expected.norm().item<double>();
}

class EveryFamily : public ::testing::TestWithParam<std::string> {};

int64_t vocabulary_of(const fs::path& folder) { return format::ModelConfig::load(folder)->vocab_size; }

TEST_P(EveryFamily, IsWrittenReadBackAndCloseToItsSource) {
  const fs::path source = kTiny / GetParam();
  const int64_t vocabulary = vocabulary_of(source);
  const auto calibration = random_tokens(12, 40, vocabulary, 1), held_out = random_tokens(2, 48, vocabulary, 2);
  const at::Tensor expected = logits_of(source, held_out[0]);
  for (const auto& [scheme, bound] :
       {std::pair{"int8", 0.08}, {"w8a8", 0.09}, {"w8a8-static", 0.2}, {"int4-g32", 0.5}, {"int4-g32-asym", 0.45}}) {
    for (const std::string method : {"rtn", "gptq", "gptaq"}) {
      if (method == "gptaq" && scheme != std::string("int4-g32-asym"))
        continue;  // differs from gptq by its start alone
      SCOPED_TRACE(std::string(scheme) + " " + method);
      const bool calibrated = method != "rtn" || scheme == std::string("w8a8-static");
      Scratch scratch;
      const auto done = compress(source, scratch / "out", recipe_of(scheme, method),
                                 calibrated ? calibration : std::vector<eval::Tokens>());
      ASSERT_TRUE(done.ok()) << done.status().message();
      const double error = relative_error(logits_of(scratch / "out", held_out[0]), expected);
      EXPECT_LT(error, bound);
      EXPECT_GT(error, 0);
      EXPECT_EQ(done->report.bytes_written, done->plan.bytes_after);
      // What calibration carried from block to block is what the written file computes; activations that lie on the
      // edge between two of 255 steps may fall to either side.
      if (calibrated) {
        const model::Decoder written = model::Decoder::open(scratch / "out").value();
        EXPECT_LT(relative_error(done->states, states_of(written, calibration[0])),
                  std::string(scheme).starts_with("w8a8") ? 0.02 : 1e-5);
      }
      for (const pass::TensorReport& tensor : done->report.tensors) {
        EXPECT_GT(tensor.cosine, 0.97) << tensor.name;
        const bool routed = tensor.name.find(".experts.") != std::string::npos && method == "rtn";  // no scale to find
        const bool reached = !routed && tensor.note.find("no calibration") == std::string::npos;
        EXPECT_EQ(tensor.output_error > 0, calibrated && reached) << tensor.name;
      }
    }
  }
}

/// Makes every weight zero and remembers the size of what came in.
class Zeroing : public pass::Pass {
 public:
  explicit Zeroing(std::map<std::string, double>& inputs) : inputs_(inputs) {}
  std::string_view name() const override { return "zeroing"; }
  calibrate::Needs needs() const override { return {.moments = true}; }
  Status run(std::vector<pass::Target*>& stage, CancelToken&) override {
    for (pass::Target* target : stage) {
      inputs_[target->name.substr(target->name.rfind('.') + 1)] = target->input->mean_square.max().item<double>();
      format::QuantizedWeight zeros = make_result(*target);
      std::fill(zeros.scales.begin(), zeros.scales.end(), 1.0f);
      target->result = std::move(zeros);
    }
    return ok_status();
  }
  int64_t working_bytes(int64_t, int64_t) const override { return 0; }
  double flops(int64_t, int64_t) const override { return 0; }

 private:
  std::map<std::string, double>& inputs_;
};

TEST(Pipeline, InputsAreThoseThatTheCompressedSubLayersBeforeGive) {
  std::map<std::string, double> inputs;
  pass::Registry own;
  own.add("zeroing", [&](const nlohmann::json&) -> Result<std::unique_ptr<pass::Pass>> {
    return std::unique_ptr<pass::Pass>(std::make_unique<Zeroing>(inputs));
  });
  Scratch scratch;
  ASSERT_TRUE(compress(kTiny / "qwen3", scratch / "out", recipe_of("int8", "zeroing"), random_tokens(4, 32, 320, 1), {},
                       nullptr, own)
                  .ok());
  EXPECT_GT(inputs.at("q_proj"), 0);
  EXPECT_EQ(inputs.at("o_proj"), 0);  // v, which has no bias, was zero by then
  EXPECT_GT(inputs.at("up_proj"), 0);
  EXPECT_EQ(inputs.at("down_proj"), 0);
}

TEST_P(EveryFamily, StoredAsFloatsGivesTheSameLogits) {
  Scratch scratch;
  const fs::path source = kTiny / GetParam();
  const eval::Tokens tokens = random_tokens(1, 32, vocabulary_of(source), 3)[0];
  ASSERT_TRUE(compress(source, scratch / "fp32", recipe_of("fp32", ""), {}).ok());
  EXPECT_LT((logits_of(scratch / "fp32", tokens) - logits_of(source, tokens)).abs().max().item<double>(), 1e-6);
  ASSERT_TRUE(compress(source, scratch / "fp16", recipe_of("fp16", ""), {}).ok());
  const model::Decoder half = model::Decoder::open(scratch / "fp16").value();
  EXPECT_EQ(half.config().dtype, format::DType::kF16);
  EXPECT_FALSE(half.stored().quantization.has_value());
  EXPECT_EQ(half.checkpoint().find(half.layout().find(format::Role::kEmbedding)->weight_name())->dtype,
            format::DType::kF16);
}

INSTANTIATE_TEST_SUITE_P(Families, EveryFamily, ::testing::ValuesIn(format::tiny_families()),
                         [](const auto& info) { return info.param; });

TEST(Pipeline, GivesTheSameBytesAgainSpilledAndInRounds) {
  Scratch scratch;
  const auto calibration = random_tokens(6, 32, 320, 4);
  for (const char* family : {"glm4", "glm4_moe", "qwen3"}) {
    const pass::Recipe recipe = recipe_of("int4-g32", "gptq");
    const model::Decoder decoder = model::Decoder::open(kTiny / family).value();
    const pass::Resolved resolved =
        pass::resolve(recipe, decoder.config(), decoder.layout(), &decoder.checkpoint(), registry(), true).value();
    pass::Plan plan =
        pass::make_plan(recipe, registry(), resolved, &decoder.checkpoint(), {.sequences = 6, .length = 32}).value();
    plan.memory.batch_tokens = 64;
    const auto run = [&](const std::string& name) {
      CancelToken cancel;
      format::CheckpointWriter writer = format::CheckpointWriter::create(scratch / name, {.overwrite = true}).value();
      const pass::PipelineInput input{&recipe, &registry(), &resolved, &plan, &decoder, calibration, {}};
      EXPECT_TRUE(pass::run_pipeline(input, writer, cancel).ok());
      EXPECT_TRUE(writer.commit().ok());
      std::ifstream file(scratch / name / "model.safetensors", std::ios::binary);
      return std::string(std::istreambuf_iterator<char>(file), {});
    };
    const std::string usual = run("usual");
    EXPECT_EQ(usual, run("again")) << family << ": not deterministic";
    for (const int64_t bytes : {0, 2 * 64 * 128 * 4, 1 << 20}) {  // halves run twice, of a part once, once
      plan.memory.kept_input_bytes = bytes;
      EXPECT_EQ(usual, run("kept")) << family << ", " << bytes;
    }
    plan.memory.state_bytes = 2 * 32 * 128 * 4;  // two of six sequences in memory
    EXPECT_EQ(usual, run("spilled")) << family;
    plan.memory.statistics_bytes = 1;  // one expert at a time
    EXPECT_EQ(usual, run("rounds")) << family;
  }
}

TEST(Pipeline, EmbeddingAndHeadCanBeTargeted) {
  Scratch scratch;
  pass::Recipe recipe = recipe_of("int8", "gptq");
  recipe.embedding = pass::Scheme::parse("int8").value();
  recipe.head = pass::Scheme::parse("int8").value();
  const auto calibration = random_tokens(6, 32, 320, 5);
  const eval::Tokens tokens = random_tokens(1, 32, 320, 6)[0];
  for (const char* family : {"glm4", "glm4_tied", "chatglm"}) {
    const auto done = compress(kTiny / family, scratch / "out", recipe, calibration);
    ASSERT_TRUE(done.ok()) << family << ": " << done.status().message();
    const model::Decoder decoder = model::Decoder::open(scratch / "out").value();
    EXPECT_FALSE(decoder.config().tie_word_embeddings);
    const auto& quantization = *decoder.stored().quantization;
    EXPECT_NE(quantization.scheme_for(decoder.layout().find(format::Role::kEmbedding)->name, "Embedding"), nullptr);
    EXPECT_NE(quantization.scheme_for("lm_head", "Linear"), nullptr);
    const at::Tensor expected = logits_of(kTiny / family, tokens), actual = logits_of(scratch / "out", tokens);
    EXPECT_LT((actual - expected).norm().item<double>() / expected.norm().item<double>(), 0.06) << family;
  }
}

TEST(Pipeline, GptqLosesLessThanRoundingOnTheDemoModel) {
  Scratch scratch;
  const model::Decoder source = model::Decoder::open(kDemo).value();
  const auto tokenizer = tokenizer::Tokenizer::load(kDemo).value();
  const auto chat = tokenizer::ChatTemplate::load(kDemo).value();
  const auto calibration_text = eval::read_documents(kDemo / "tasks/calibration.jsonl", &chat).value();
  const auto held_out_text = eval::read_documents(kDemo / "tasks/eval.jsonl", &chat).value();
  const auto calibration = eval::draw_sequences(calibration_text, *tokenizer, {.count = 32, .length = 256}).value();
  const auto held_out = eval::draw_sequences(held_out_text, *tokenizer, {.count = 12, .length = 256}).value();
  const auto kl = [&](const std::string& method) {
    EXPECT_TRUE(compress(kDemo, scratch / method, recipe_of("int4-g128", method),
                         method == "rtn" ? std::vector<eval::Tokens>() : calibration)
                    .ok());
    CancelToken cancel;
    const model::Decoder written = model::Decoder::open(scratch / method).value();
    const auto a = model::make_torch_scorer(source), b = model::make_torch_scorer(written);
    return eval::compare(*a, *b, held_out, cancel).value().kl_mean;
  };
  const double rounded = kl("rtn"), ours = kl("gptq");
  EXPECT_GT(ours, 0);
  EXPECT_LT(ours, 0.8 * rounded);
  std::printf("KL on held-out tasks: rtn %.5f, gptq %.5f\n", rounded, ours);
}

TEST(Pipeline, OverridesDecideAndConflictsAreRefused) {
  const model::Decoder decoder = model::Decoder::open(kTiny / "glm4_moe").value();
  const auto resolve = [&](const pass::Recipe& recipe) {
    return pass::resolve(recipe, decoder.config(), decoder.layout(), &decoder.checkpoint(), registry(), false);
  };
  pass::Recipe recipe = recipe_of("int4-g32", "rtn");
  recipe.overrides = {pass::Recipe::parse_override("layers\\.0\\..*=int8").value(),
                      pass::Recipe::parse_override("o_proj$=keep").value()};
  const auto resolved = resolve(recipe);
  ASSERT_TRUE(resolved.ok()) << resolved.status().message();
  for (const pass::Decision& decision : resolved->decisions) {
    if (decision.module.name == "model.layers.0.self_attn.o_proj") {
      EXPECT_EQ(decision.scheme->to_string(), "int8");
    }
    if (decision.module.name == "model.layers.1.self_attn.o_proj") {
      EXPECT_FALSE(decision.scheme.has_value());
    }
  }
  const auto refused = [&](const std::string& override_text, const std::string& part,
                           const std::string& scheme = "int4-g32") {
    pass::Recipe bad = recipe_of(scheme, "rtn");
    bad.overrides = {pass::Recipe::parse_override(override_text).value()};
    const auto result = resolve(bad);
    ASSERT_FALSE(result.ok()) << override_text;
    EXPECT_THAT(result.status().message(), HasSubstr(part)) << override_text;
  };
  refused("q_proj=int8", "share an input");
  refused("layers\\.1\\.mlp\\.experts\\.3\\.up_proj=int8", "experts");
  refused("experts\\.\\d=int4-asym", "symmetric");
  refused("no_such_module=int8", "matches no module");
  refused("down_proj=int4-g96", "does not divide");
  refused("down_proj=int4-g32:gtpq", "gptq");
  refused("down_proj=int4-g32:gptq", "calibration");

  pass::Recipe asymmetric = recipe_of("int4-g32-asym", "rtn");
  const auto adapted = resolve(asymmetric);
  ASSERT_TRUE(adapted.ok());
  EXPECT_THAT(adapted->notes, ::testing::Contains(HasSubstr("routed experts")));
  ASSERT_TRUE(adapted->quantization.has_value());
  EXPECT_EQ(adapted->quantization->config_groups.size(), 2u);
}

TEST(Pipeline, GroupSizeFallsBackUnlessItWasGiven) {
  pass::Recipe recipe = recipe_of("int4", "rtn");
  const model::Decoder decoder = model::Decoder::open(kTiny / "llama").value();
  const auto resolved =
      pass::resolve(recipe, decoder.config(), decoder.layout(), &decoder.checkpoint(), registry(), false);
  ASSERT_TRUE(resolved.ok()) << resolved.status().message();
  for (const pass::Decision& decision : resolved->decisions) {
    if (decision.scheme) {
      EXPECT_EQ(decision.module.shape[1] % decision.scheme->weights.group_size, 0);
    }
  }
}

TEST(Pipeline, WritesBeforeItRoundsOnWhereMemoryHoldsNoTwoWeights) {
  pass::Recipe recipe = recipe_of("int8", "rtn");
  recipe.embedding = recipe.head = recipe.scheme;
  const Scratch scratch;
  const auto beside = compress(kDemo, scratch / "beside", recipe, {});
  ASSERT_TRUE(beside.ok()) << beside.status().message();
  ASSERT_TRUE(beside->plan.memory.overlap);
  const auto& [name, bytes] = beside->plan.memory_parts.back();
  ASSERT_EQ(name, "the tensor before it, being written");
  // What the process itself holds moves a little from plan to plan.
  bool found = false;
  for (int64_t most = beside->plan.peak_rss + 4 * bytes; !found && most > 0; most -= bytes / 4) {
    const auto bounded = compress(kDemo, scratch / "after", recipe, {}, {.max_ram = most});
    ASSERT_TRUE(bounded.ok()) << bounded.status().message();
    EXPECT_LE(bounded->plan.peak_rss, most);
    found = !bounded->plan.memory.overlap;
  }
  ASSERT_TRUE(found);
  EXPECT_EQ(contents(scratch / "after/model.safetensors"), contents(scratch / "beside/model.safetensors"));
}

TEST(Pipeline, StopsWhenAskedAndLeavesNothing) {
  Scratch scratch;
  CancelToken cancel;
  cancel.cancel();
  for (const char* method : {"rtn", "gptq"}) {
    const auto done = compress(kTiny / "glm4", scratch / "out", recipe_of("int4-g32", method),
                               random_tokens(2, 16, 320, 7), {}, &cancel);
    ASSERT_FALSE(done.ok());
    EXPECT_EQ(done.status().code(), StatusCode::kCancelled) << done.status().message();
    EXPECT_TRUE(fs::is_empty(scratch.folder()));
  }
}

TEST(Pipeline, RefusesWhatDoesNotFitInMemoryWithTheNumbers) {
  Scratch scratch;
  const auto done = compress(kTiny / "glm4", scratch / "out", recipe_of("int4-g32", "gptq"),
                             random_tokens(2, 16, 320, 8), {.max_ram = 10 << 20});
  ASSERT_FALSE(done.ok());
  EXPECT_EQ(done.status().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(done.status().message(), HasSubstr("10.5 MB"));
}

TEST(HiddenStates, SpillToDiskAndComeBack) {
  Scratch scratch;
  const std::vector<int64_t> lengths = {4, 4, 4, 7, 7, 2};
  auto states = calibrate::HiddenStates::create(lengths, 8, at::kFloat, 2 * 4 * 8 * 4, scratch.folder()).value();
  EXPECT_EQ(states.spilled_bytes(), (4 + 7 + 7 + 2) * 8 * 4);
  EXPECT_TRUE(fs::is_empty(scratch.folder()));
  const auto batches = calibrate::cut_batches(lengths, 14);
  ASSERT_EQ(batches.size(), 3u);
  std::vector<at::Tensor> expected;
  for (const auto& batch : batches) {
    expected.push_back(at::randn({batch.count, batch.length, 8}));
    ASSERT_TRUE(states.put(batch.first, expected.back()).ok());
  }
  for (size_t i = 0; i < batches.size(); ++i) {
    EXPECT_TRUE(at::equal(states.get(batches[i].first, batches[i].count).value(), expected[i]));
  }
  EXPECT_FALSE(calibrate::HiddenStates::create(lengths, 8, at::kFloat, 0, scratch / "absent").ok());
}

TEST(SelfSample, IsSeededAndDoesNotDependOnTheBatch) {
  CancelToken cancel;
  const model::Decoder decoder = model::Decoder::open(kTiny / "glm4").value();
  model::Generator generator = model::Generator::create(decoder).value();
  const auto sample = [&](uint64_t seed, int64_t batch, int64_t fresh_every = 0) {
    const calibrate::SelfSampleOptions options{
        .count = 5, .length = 20, .seed = seed, .batch = batch, .fresh_every = fresh_every, .start = {7, 8}};
    return calibrate::self_sample(generator, options, cancel).value();
  };
  const auto a = sample(1, 5);
  ASSERT_EQ(a.size(), 5u);
  for (const auto& tokens : a) {
    EXPECT_EQ(tokens.size(), 20u);
    EXPECT_EQ(tokens[0], 7);
    EXPECT_EQ(tokens[1], 8);
  }
  EXPECT_EQ(a, sample(1, 2));
  EXPECT_NE(a, sample(2, 5));

  const auto fresh = sample(1, 5, 4);  // tokens 6, 10, 14 and 18 are drawn evenly: what is before the first is the same
  EXPECT_EQ(fresh, sample(1, 2, 4));
  EXPECT_NE(fresh, a);
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(std::equal(a[i].begin(), a[i].begin() + 6, fresh[i].begin()));
}

}  // namespace
}  // namespace autoglm::quant
