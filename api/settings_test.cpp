#include "api/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace autoglm::api {
namespace {

nlohmann::json yaml(const std::string& text) {
  auto parsed = yaml_to_json(text, "r.yaml");
  EXPECT_TRUE(parsed.ok()) << parsed.status().message();
  return parsed.ok() ? *parsed : nlohmann::json();
}

TEST(Yaml, TellsTypesApart) {
  EXPECT_EQ(
      yaml("a: 1\nb: 2.5\nc: true\nd: '1'\ne: ~\nf: [x, 2]\ng: {h: int4-g64}"),
      (nlohmann::json{
          {"a", 1}, {"b", 2.5}, {"c", true}, {"d", "1"}, {"e", nullptr}, {"f", {"x", 2}}, {"g", {{"h", "int4-g64"}}}}));
}

TEST(Yaml, RefusesInOneLineWithItsNumber) {
  const auto message = [](const std::string& text) { return yaml_to_json(text, "r.yaml").status().message(); };
  EXPECT_EQ(message("a: 1\na: 2"), "r.yaml:2: the recipe repeats the key 'a'");
  EXPECT_EQ(message("a: [1").rfind("r.yaml:", 0), 0u);
  EXPECT_NE(message("[[1]: 2]"), "");
  std::string bomb = "a0: &a0 [1]\n";
  for (int i = 1; i < 30; ++i) {
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [*a" + std::to_string(i - 1) + ", *a" +
            std::to_string(i - 1) + "]\n";
  }
  EXPECT_NE(message(bomb).find("too large"), std::string::npos);
}

TEST(Recipe, ReadsRunSettingsAndRecipeTogether) {
  const auto settings = read_recipe(
      yaml("scheme: int8\nmethod: rtn\ncalibration_samples: 16\nmax_loss: 3%\nmax_ram: 4G\nseed: 7"), "r.yaml");
  ASSERT_TRUE(settings.ok()) << settings.status().message();
  EXPECT_EQ(settings->recipe.scheme.to_string(), "int8");
  EXPECT_EQ(settings->recipe.method, "rtn");
  EXPECT_EQ(settings->calibration_samples, 16);
  EXPECT_DOUBLE_EQ(settings->max_loss, 0.03);
  EXPECT_EQ(settings->max_ram, 4'000'000'000);
  EXPECT_EQ(settings->seed, 7u);
}

TEST(Recipe, NamesWhatIsUnknownOrWrong) {
  const auto message = [](const std::string& text) { return read_recipe(yaml(text), "r.yaml").status().message(); };
  EXPECT_NE(message("calibration_sample: 3").find("did you mean 'calibration_samples'?"), std::string::npos);
  EXPECT_NE(message("shceme: int4").find("did you mean 'scheme'?"), std::string::npos);
  EXPECT_THAT(message("effort: bset"), ::testing::StartsWith("r.yaml: unknown value of --effort"));
  EXPECT_EQ(message("threads: many"), "r.yaml: threads: must be a whole number");
  EXPECT_NE(message("scheme: int44").find("int4"), std::string::npos);
  EXPECT_NE(message("- 1").find("a recipe is a list of members"), std::string::npos);
}

TEST(Settle, OptionsTakePrecedenceOverTheFile) {
  const auto file = std::filesystem::path(testing::TempDir()) / "settle.yaml";
  std::ofstream(file) << "scheme: int8\nverify: full\ncalibration_length: 64\n";
  CompressOptions options;
  options.config = file.string();
  options.quantization = "int4-g32";
  const auto settings = settle(options);
  ASSERT_TRUE(settings.ok()) << settings.status().message();
  EXPECT_EQ(settings->recipe.scheme.to_string(), "int4-g32");
  EXPECT_EQ(settings->verify, "full");
  EXPECT_EQ(settings->calibration_length, 64);
  EXPECT_EQ(settings->calibration_samples, 128);
  std::filesystem::remove(file);
}

TEST(Settle, RefusesContradictions) {
  CompressOptions options;
  options.verify = "none";
  options.max_loss = 0.03;
  EXPECT_NE(settle(options).status().message().find("contradicts --verify none"), std::string::npos);
  options = {};
  options.verify = "fats";
  EXPECT_NE(settle(options).status().message().find("did you mean 'fast'?"), std::string::npos);
  options = {};
  options.calibration_samples = -3;
  EXPECT_EQ(settle(options).status().code(), StatusCode::kInvalidArgument);
  options = {};
  options.swaps = 2;
  EXPECT_THAT(settle(options).status().message(), ::testing::HasSubstr("beside a budget alone"));
  options.effort = "best";  // which has swaps of its own, for budgets
  options.swaps = -1;
  EXPECT_TRUE(settle(options).ok());
}

}  // namespace
}  // namespace autoglm::api
