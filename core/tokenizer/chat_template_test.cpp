#include "core/tokenizer/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

// Agreement with transformers is tested in tests/chat_template; here are folders and conversations that are wrong.
namespace autoglm::tokenizer {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

const ordered_json kHello = {{"messages", {{{"role", "user"}, {"content", "hi"}}}}};

class ChatTemplateFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / ("chat_template_" + std::string(test->name()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write(const std::string& name, const std::string& text) {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  std::string load_error() const {
    const Result<ChatTemplate> loaded = ChatTemplate::load(folder_);
    EXPECT_FALSE(loaded.ok());
    EXPECT_EQ(loaded.status().code(), StatusCode::kBadInput);
    EXPECT_THAT(loaded.status().message(), Not(HasSubstr("\n")));
    return loaded.status().message();
  }

  fs::path folder_;
};

TEST_F(ChatTemplateFolder, WithoutTemplate) {
  EXPECT_THAT(load_error(), AllOf(HasSubstr(folder_.filename().string()), HasSubstr("no chat template"),
                                  HasSubstr("chat_template.jinja")));
  write("config.json", R"({"model_type": "chatglm"})");
  EXPECT_THAT(load_error(), HasSubstr("nothing in the folder tells ChatGLM2, ChatGLM3 and GLM-4 apart"));
  EXPECT_FALSE(ChatTemplate::load(folder_ / "absent").ok());
}

TEST_F(ChatTemplateFolder, BrokenTemplateNamesFileAndLine) {
  write("chat_template.jinja", "a\n{% include 'x' %}");
  EXPECT_THAT(load_error(), AllOf(HasSubstr("chat_template.jinja"), HasSubstr("line 2"), HasSubstr("include")));
  write("chat_template.jinja", "fine");
  write("additional_chat_templates/tool_use.jinja", "{{");
  EXPECT_THAT(load_error(), AllOf(HasSubstr("tool_use"), HasSubstr("line 1")));
}

TEST_F(ChatTemplateFolder, BrokenConfig) {
  for (const char* text : {"{", "[]", R"({"chat_template": 5})", R"({"chat_template": [5]})",
                           R"({"chat_template": [{"name": "default"}]})",
                           R"({"chat_template": [{"name": "rag", "template": ""}]})", R"({"chat_template": "{{"})"}) {
    write("tokenizer_config.json", text);
    EXPECT_THAT(load_error(), HasSubstr("tokenizer_config.json")) << text;
  }
  write("tokenizer_config.json", R"({"bos_token": 5, "eos_token": {"content": 5}, "added_tokens_decoder": [1]})");
  EXPECT_THAT(load_error(), HasSubstr("no chat template"));
  write("config.json", R"({"model_type": "chatglm", "_name_or_path": 7})");
  write("tokenizer_config.json", R"({"added_tokens_decoder": 5, "name_or_path": {}})");
  EXPECT_THAT(load_error(), HasSubstr("no chat template"));
}

TEST_F(ChatTemplateFolder, DemoModel) {
  const Result<ChatTemplate> loaded = ChatTemplate::load(fs::path(AUTOGLM_SOURCE_DIR) / "models" / "glm-phone-demo");
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  ordered_json variables = kHello;
  variables["add_generation_prompt"] = true;
  EXPECT_EQ(*loaded->render(variables), "[gMASK]<sop><|user|>\nhi<|assistant|>\n");
}

TEST(ChatTemplate, ConversationsThatAreWrong) {
  const Result<ChatTemplate> parsed = ChatTemplate::parse("{{ messages[0].content }}");
  ASSERT_TRUE(parsed.ok());
  for (const ordered_json& variables :
       {ordered_json(5), ordered_json(), ordered_json::object(), ordered_json{{"messages", 5}},
        ordered_json{{"messages", ordered_json::array()}}, ordered_json{{"messages", {1}}}}) {
    EXPECT_FALSE(parsed->render(variables).ok()) << variables;
  }
  EXPECT_FALSE(ChatTemplate::parse("", ordered_json::array({1})).ok());
}

TEST(ChatTemplate, CarriesTheTemplatesOwnMessage) {
  const Result<ChatTemplate> parsed = ChatTemplate::parse("\n{{ raise_exception('roles must alternate') }}");
  ASSERT_TRUE(parsed.ok());
  const Result<std::string> text = parsed->render(kHello);
  ASSERT_FALSE(text.ok());
  EXPECT_EQ(text.status().code(), StatusCode::kBadInput);
  EXPECT_EQ(text.status().message(), "chat template: line 2: roles must alternate");
}

TEST(ChatTemplate, SpecialTokensCanBeOverridden) {
  const Result<ChatTemplate> parsed =
      ChatTemplate::parse("{{ bos_token }}{{ tools is none }}{{ x }}", {{"bos_token", "<s>"}});
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(*parsed->render(kHello), "<s>True");
  ordered_json variables = kHello;
  variables.update({{"bos_token", "B"}, {"tools", ordered_json::array()}, {"x", 1.5}});
  EXPECT_EQ(*parsed->render(variables), "BFalse1.5");
}

}  // namespace
}  // namespace autoglm::tokenizer
