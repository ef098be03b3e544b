#include "core/tokenizer/chat_template_builtin.h"

#include <algorithm>
#include <string>

namespace autoglm::tokenizer {
namespace {

using nlohmann::ordered_json;

// ChatGLM2's build_prompt: rounds of question and answer, counted from 1. It knows no roles: a system message stands
// before the first round as plain text.
constexpr std::string_view kChatGlm2 =
    R"([gMASK]sop{% set ns = namespace(round=0) %}
{% for message in messages %}
{% if message['role'] == 'system' %}
{{ message['content'] + '\n\n' }}
{%- elif message['role'] == 'user' %}
{% set ns.round = ns.round + 1 %}
{{ '[Round ' ~ ns.round ~ ']\n\n问：' ~ message['content'] ~ '\n\n答：' }}
{%- elif message['role'] == 'assistant' %}
{{ message['content'] + '\n\n' }}
{%- else %}
{{ raise_exception("ChatGLM2 knows the roles system, user and assistant, not '" ~ message['role'] ~ "'") }}
{%- endif %}
{% endfor %})";

// ChatGLM3's build_single_message, as its later tokenizer_config.json writes it; tools as build_chat_input adds them
// to a system message.
constexpr std::string_view kChatGlm3 =
    R"([gMASK]sop{% for message in messages %}
{{ '<|' + message['role'] + '|>' + (message['metadata'] or '') + '\n ' + message['content'] }}
{%- if message['role'] == 'system' and message['tools'] %}
{{ '\n' + (message['tools'] | tojson(indent=4)) }}
{%- endif %}
{% endfor %}
{% if add_generation_prompt %}<|assistant|>{% endif %})";

// The apply_chat_template of GLM-4's first release: a message that brings functions gets a system message about them.
constexpr std::string_view kGlm4 =
    R"([gMASK]<sop>{% for message in messages %}
{% if message['tools'] %}
{{ '<|system|>\n你是一个名为 GLM-4 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具' }}
{%- for tool in message['tools'] %}
{% if tool['type'] != 'function' %}
{{ raise_exception("the built-in GLM-4 format knows tools of type function, not '" ~ tool['type'] ~ "'") }}
{%- endif %}
{{ '\n\n## ' + tool['function']['name'] + '\n\n' + (tool['function'] | tojson(indent=4)) + '\n在调用上述函数时，请使用 Json 格式表示调用的参数。' }}
{%- endfor %}
{% endif %}
{% if message['content'] %}
{{ '<|' + message['role'] + '|>' + (message['metadata'] or '') + '\n' + message['content'] }}
{%- endif %}
{% endfor %}
{% if add_generation_prompt %}<|assistant|>{% endif %})";

std::string string_of(const ordered_json& object, const char* key) {
  if (!object.is_object()) return {};
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

}  // namespace

Result<std::string_view> builtin_chat_template(const ordered_json& config, const ordered_json& tokenizer_config,
                                               std::string_view code) {
  if (string_of(config, "model_type") != "chatglm" || config.contains("inner_hidden_size")) {
    return bad_input(
        "no chat template: the folder has neither chat_template.jinja nor a chat_template in "
        "tokenizer_config.json; put the model's own chat_template.jinja beside config.json");
  }
  // What tells the releases apart, surest first: GLM-4's tokenizer class, the role tokens that ChatGLM3 introduced, the
  // names of the releases.
  const std::string tokenizer_class = string_of(tokenizer_config, "tokenizer_class");
  if (tokenizer_class == "ChatGLM4Tokenizer" || contains(code, "ChatGLM4Tokenizer")) return kGlm4;
  const ordered_json added =
      tokenizer_config.is_object() ? tokenizer_config.value("added_tokens_decoder", ordered_json()) : ordered_json();
  const bool has_roles = std::any_of(
      added.begin(), added.end(), [](const ordered_json& token) { return string_of(token, "content") == "<|user|>"; });
  if (has_roles || contains(code, "<|user|>")) return kChatGlm3;
  std::string names = string_of(config, "_name_or_path") + " " + string_of(tokenizer_config, "name_or_path");
  std::transform(names.begin(), names.end(), names.begin(), [](unsigned char c) { return std::tolower(c); });
  if (contains(names, "glm-4-9b")) return kGlm4;
  if (contains(names, "chatglm3")) return kChatGlm3;
  if (contains(names, "chatglm2") || contains(code, "问：")) return kChatGlm2;
  return bad_input(
      "no chat template, and nothing in the folder tells ChatGLM2, ChatGLM3 and GLM-4 apart; put the "
      "model's own chat_template.jinja beside config.json");
}

}  // namespace autoglm::tokenizer
