#include "core/eval/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <sstream>

namespace autoglm::eval {
namespace {

using testing::HasSubstr;
using testing::Not;

/// A report with every member set to something that is not its default.
Report full_report() {
  Report r;
  r.program = "autoglm 0.1.0";
  r.source = ModelFacts{"models/demo", "glm4", "Glm4ForCausalLM", "BF16", 8'400'000, 16'813'920};
  r.artifact = ModelFacts{"out/int4", "glm4", "Glm4ForCausalLM", "INT4 g128 symmetric", 8'400'000, 2'128'344};
  r.recipe = {{"quantization", "int4-g128"}, {"method", "gptq"}, {"seed", 7}};
  r.calibration = CalibrationUse{{"tasks/calibration.jsonl", 128, 512, 7}, 65536, "cafe", "feed"};
  r.conditions = Conditions{"Example CPU", "cpu", "fp32", 2, 7};
  r.predicted = Cost{300'000'000, 2'100'000, 12};
  r.measured = Cost{280'000'000, 2'128'344, 10.5};
  r.stages = {{"calibration", 0.5}, {"blocks", 9}};
  r.automatic = AutomaticBits{
      "transformers",
      2'200'000,
      2'128'000,
      0.0312,
      4096,
      {{"model.layers.0.mlp.down_proj", "int3-g64", 75'000, 3.05, 0.004}, {"lm_head", "keep", 2'097'152, 16, 0}},
      {{1'900'000, 0.09}, {2'600'000, 0.01}},
      {{2'500'000, 0.02, 0.015, 0.01, true}, {2'000'000, 0.05, std::nullopt, 0.06, false}},
      Swaps{70, 0.03, 0.025}};
  r.reconstruction = {{0, 0.0061, 0.0052, true}, {1, 0.007, 0.0071, false}};
  r.refinement = Refinement{2, 60, 0.0151, 0.0124, true};
  r.passes = {{"model.layers.0.mlp.down_proj", "gptq", "INT4 g128 symmetric", 1e-5, 0.998, 0.01, "damping 0.02"}};
  r.carried_over = {"visual.patch_embed.weight"};
  r.warnings = {"the text is short"};

  Evaluation e;
  e.level = "fast";
  e.text = TextUse{"tasks/eval.jsonl", 16, 512, 7};
  e.conditions = *r.conditions;
  e.seconds = 8.25;
  e.seconds_allowed = 10.5;
  e.peak_rss_bytes = 310'000'000;
  e.divergence = Divergence{16, 8176, 0.012, 0.004, 0.1, 1.5, 0.971, 9.5, 9.61};
  e.perplexity = 9.61;
  TaskScores tasks;
  tasks.count = 500;
  tasks.available = 4000;
  tasks.max_new_tokens = 67;
  tasks.correct = 454;
  tasks.source_correct = 456;
  tasks.lost = 5;
  tasks.gained = 3;
  tasks.agreement = 0.982;
  tasks.groups = {{"kind tap", 300, 280, 281}, {"lang zh", 250, 220, std::nullopt}};
  e.tasks = tasks;
  e.latency = Latency{32, 100, 1.25, 2.5};
  WeightDiff w;
  w.tensors = {
      {"model.layers.1.self_attn.q_proj", "q", 1, -1, "INT4 g128 symmetric", 65536, 65536, 2e-6, 0.005, 0.9975, 0.01},
      {"model.layers.0.mlp.down_proj", "down", 0, -1, "INT4 g128 symmetric", 196608, 65536, 1e-6, 0.006, 0.997, 0.02}};
  w.identical = 34;
  w.changed = {"model.norm.weight"};
  w.missing = {"rotary.inv_freq"};
  w.extra = {"lm_head.weight"};
  w.compared_share = 0.5;
  e.weights = w;
  Sizes s;
  s.parts = {{"mlp", 4'700'000, 2'500'000, 73'000, 9'400'000, 4.25}};
  s.parameters = 8'400'000;
  s.tensor_bytes = 2'100'000;
  s.file_bytes = 2'128'344;
  s.source_file_bytes = 16'813'920;
  s.quantized_parameters = 6'300'000;
  s.quantized_bits_per_weight = 4.125;
  s.bits_per_weight = 2;
  s.ratio = 7.9;
  s.ratio_16_bit = 8;
  s.ratio_32_bit = 16;
  e.sizes = s;
  e.contract = Contract{0.03, "task accuracy", 0.0044, 0.0113, true};
  e.notes = {"latency: 40 of 100 steps, to stay within the time"};
  r.evaluation = e;
  return r;
}

std::string file(const std::string& name) {
  std::ifstream in(std::string(AUTOGLM_SOURCE_DIR) + "/" + name);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

/// The golden file, rewritten first when AUTOGLM_UPDATE_GOLDEN is set (look at the difference before committing it).
std::string golden(const std::string& name, const std::string& now) {
  if (std::getenv("AUTOGLM_UPDATE_GOLDEN") != nullptr) {
    std::ofstream(std::string(AUTOGLM_SOURCE_DIR) + "/" + name) << now;
  }
  return file(name);
}

TEST(ReportJson, EqualsTheGoldenFile) {
  const std::string json = to_json(full_report());
  EXPECT_EQ(json, golden("tests/data/report/report.json", json));
}

TEST(ReportMarkdown, EqualsTheGoldenFile) {
  const std::string text = to_markdown(full_report());
  EXPECT_EQ(text, golden("tests/data/report/report.md", text));
}

TEST(ReportJson, ComesBackAsItWas) {
  const std::string json = to_json(full_report());
  const auto back = report_from_json(json);
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_EQ(to_json(*back), json);
  EXPECT_EQ(back->evaluation->tasks->groups[0].source_correct, 281);
  EXPECT_EQ(back->evaluation->tasks->groups[1].source_correct, std::nullopt);

  const auto evaluation = evaluation_from_json(to_json(*full_report().evaluation));
  ASSERT_TRUE(evaluation.ok());
  EXPECT_EQ(to_json(*evaluation), to_json(*full_report().evaluation));
}

TEST(ReportJson, SaysNullForWhatWasNotMeasured) {
  Report r;
  r.evaluation.emplace();
  const std::string json = to_json(r);
  EXPECT_THAT(json, HasSubstr("\"divergence\": null"));
  EXPECT_THAT(json, HasSubstr("\"source\": null"));
  const auto back = report_from_json(json);
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_FALSE(back->evaluation->divergence.has_value());
  EXPECT_FALSE(back->source.has_value());
}

TEST(ReportJson, WritesNonFiniteNumbersAndStrayBytesAsValidJson) {
  Report r = full_report();
  r.evaluation->divergence->kl_max = std::numeric_limits<double>::infinity();
  r.source->path = "bad\xff";
  const auto back = report_from_json(to_json(r));
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_TRUE(std::isnan(back->evaluation->divergence->kl_max));
  EXPECT_EQ(back->source->path, "bad\xEF\xBF\xBD");
}

TEST(ReportJson, NamesWhatIsWrong) {
  const auto message = [](const char* json) {
    const auto result = report_from_json(json);
    EXPECT_EQ(result.status().code(), StatusCode::kBadInput) << json;
    return result.status().message();
  };
  message("");
  message("{");
  EXPECT_THAT(message("[]"), HasSubstr("the whole should be an object"));
  EXPECT_THAT(message(R"({"warnings": [1]})"), HasSubstr("warnings[0] should be a string, not number"));
  EXPECT_THAT(message(R"({"evaluation": {"tasks": {"groups": [{"count": 1.5}]}}})"),
              HasSubstr("evaluation.tasks.groups[0].count should be a 64-bit whole number"));
  EXPECT_THAT(message(R"({"evaluation": {"contract": {"holds": 1}}})"), HasSubstr("should be true or false"));
  EXPECT_THAT(message(R"({"conditions": {"seed": -1}})"), HasSubstr("conditions.seed should be a whole number"));
  EXPECT_THAT(message(R"({"measured": {"seconds": "3"}})"), HasSubstr("measured.seconds should be a number"));
  EXPECT_THAT(message(R"({"measured": {"output_bytes": 9223372036854775808}})"), HasSubstr("64-bit whole number"));
  EXPECT_THAT(message(R"({"stages": {}})"), HasSubstr("stages should be a list"));
  EXPECT_THAT(message(R"({"schema_version": 2})"), HasSubstr("newer"));
  EXPECT_TRUE(report_from_json(R"({"a_later_member": [1, 2]})").ok());
}

TEST(ReportSchema, IsWhatTheDocumentSays) {
  const std::string document = file("docs/REPORT.md");
  const std::string before = document.substr(0, document.find("| member |"));
  EXPECT_EQ(document, golden("docs/REPORT.md", before + report_schema()));
  EXPECT_THAT(report_schema(), HasSubstr("| `evaluation.tasks.groups[].count` | integer |"));
}

TEST(Verdict, SaysWhatIsKnown) {
  EXPECT_EQ(verdict(full_report()),
            "7.9× smaller (16.8 MB → 2.13 MB); KL 0.012; top-1 97.1 %; task accuracy 91.2 % → 90.8 %; contract holds: "
            "0.44 % lost by task accuracy, 3.00 % allowed");
  Report r = full_report();
  r.evaluation->contract->holds = false;
  EXPECT_THAT(verdict(r), HasSubstr("CONTRACT BROKEN"));
  r.evaluation.reset();
  EXPECT_EQ(verdict(r), "7.9× smaller (16.8 MB → 2.13 MB); not verified");
  r = Report();
  r.evaluation.emplace().perplexity = 12.345;
  EXPECT_EQ(verdict(r), "perplexity 12.35");
}

TEST(ReportMarkdown, OpensWithTheVerdictAndListsTheWorstTensorFirst) {
  const std::string text = to_markdown(full_report());
  EXPECT_THAT(text, HasSubstr("# glm4 as INT4 g128 symmetric\n\n7.9× smaller"));
  EXPECT_LT(text.find("layers.0.mlp.down_proj"), text.find("layers.1.self_attn.q_proj"));
}

TEST(ReportMarkdown, LetsNoTextFromFilesBecomeMarkup) {
  Report r = full_report();
  r.carried_over = {"`<script>\n# x"};
  r.warnings = {"<b>\n# heading"};
  const std::string text = to_markdown(r);
  EXPECT_THAT(text, Not(HasSubstr("\n# x")));
  EXPECT_THAT(text, Not(HasSubstr("\n# heading")));
  EXPECT_THAT(text, HasSubstr("\\<b\\>"));
}

TEST(ReportMarkdown, ReadsWellWithHardlyAnything) {
  const std::string text = to_markdown(Report());
  EXPECT_THAT(text, HasSubstr("not verified"));
  EXPECT_THAT(text, Not(HasSubstr("null")));
}

TEST(SummaryTable, PutsSeveralReportsSideBySide) {
  Report a = full_report(), b = full_report();
  b.artifact.storage = "INT8 channel";
  b.evaluation->tasks.reset();
  const std::vector<Report> reports{a, b};
  const std::string text = summary_table(reports);
  EXPECT_THAT(text, HasSubstr("BF16  INT4 g128 symmetric  INT8 channel\n"));
  EXPECT_THAT(text, HasSubstr("task accuracy"));
  EXPECT_EQ(summary_table({}), "");
}

}  // namespace
}  // namespace autoglm::eval
