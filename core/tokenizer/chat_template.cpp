#include "core/tokenizer/chat_template.h"

#include <array>
#include <optional>
#include <utility>

#include "core/format/display.h"
#include "core/format/file.h"
#include "core/format/json.h"
#include "core/tokenizer/chat_template_builtin.h"
#include "core/tokenizer/jinja.h"

namespace autoglm::tokenizer {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int64_t kMaxTemplateBytes = 1 << 20;

constexpr std::array<const char*, 7> kSpecialTokens = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                       "pad_token", "cls_token", "mask_token"};

/// The JSON object in `folder/name`; null where there is no such file.
Result<ordered_json> read_object(const fs::path& folder, const char* name) {
  const fs::path path = folder / name;
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return ordered_json();
  AUTOGLM_ASSIGN_OR_RETURN(const std::string text, format::read_text_file(path));
  Result<ordered_json> json = format::parse_json<ordered_json>(text);
  if (!json.ok()) return json.status().with_context(format::display_path(path));
  if (!json->is_object()) return bad_input(format::display_path(path) + ": not a JSON object");
  return json;
}

/// The text of `folder/name`; nothing where there is no such file.
Result<std::optional<std::string>> read_text(const fs::path& folder, const char* name) {
  const fs::path path = folder / name;
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return std::optional<std::string>();
  AUTOGLM_ASSIGN_OR_RETURN(std::string text, format::read_text_file(path, kMaxTemplateBytes));
  return std::optional<std::string>(std::move(text));
}

/// Special tokens as names for the template. special_tokens_map.json counts only for folders that do not list their
/// added tokens in tokenizer_config.json, as in transformers.
ordered_json special_tokens(const ordered_json& tokenizer_config, const ordered_json& map) {
  ordered_json out = ordered_json::object();
  const auto take = [&](const ordered_json& source) {
    for (const char* name : kSpecialTokens) {
      const auto found = source.is_object() ? source.find(name) : source.end();
      if (!source.is_object() || found == source.end()) continue;
      const bool wrapped = found->is_object() && found->contains("content");
      const ordered_json& token = wrapped ? found->at("content") : *found;
      if (token.is_string()) out[name] = token;
    }
  };
  take(tokenizer_config);
  if (!tokenizer_config.is_object() || !tokenizer_config.contains("added_tokens_decoder")) take(map);
  return out;
}

using Sources = ChatTemplate::Sources;

/// `chat_template` of a JSON file: a string, or a list of {"name", "template"}.
Result<std::optional<Sources>> sources_in(const ordered_json& config, const std::string& where) {
  if (!config.is_object() || !config.contains("chat_template")) return std::optional<Sources>();
  const ordered_json& entry = config.at("chat_template");
  if (entry.is_null()) return std::optional<Sources>();
  if (entry.is_string()) return std::optional<Sources>({entry.get<std::string>(), std::nullopt, where});
  if (!entry.is_array()) return bad_input(where + ": chat_template is neither a string nor a list");
  std::optional<std::string> usual;
  std::optional<std::string> tool_use;
  for (const ordered_json& named : entry) {
    const bool complete = named.is_object() && named.contains("name") && named["name"].is_string() &&
                          named.contains("template") && named["template"].is_string();
    if (!complete) return bad_input(where + ": an entry of chat_template lacks its name or template");
    if (named["name"] == "default") usual = named["template"].get<std::string>();
    if (named["name"] == "tool_use") tool_use = named["template"].get<std::string>();
  }
  if (!usual) return bad_input(where + ": chat_template lists several templates and none is named \"default\"");
  return std::optional<Sources>({std::move(*usual), std::move(tool_use), where});
}

/// What the folder's own files say; nothing where they have no template.
Result<std::optional<Sources>> own_sources(const fs::path& folder, const ordered_json& tokenizer_config) {
  AUTOGLM_ASSIGN_OR_RETURN(std::optional<std::string> file, read_text(folder, "chat_template.jinja"));
  if (file) {
    AUTOGLM_ASSIGN_OR_RETURN(std::optional<std::string> tool_use,
                             read_text(folder, "additional_chat_templates/tool_use.jinja"));
    return std::optional<Sources>(
        {std::move(*file), std::move(tool_use), format::display_path(folder / "chat_template.jinja")});
  }
  AUTOGLM_ASSIGN_OR_RETURN(std::optional<Sources> listed,
                           sources_in(tokenizer_config, format::display_path(folder / "tokenizer_config.json")));
  if (listed) return listed;
  // Where the processors of multimodal models keep theirs.
  AUTOGLM_ASSIGN_OR_RETURN(const ordered_json processor, read_object(folder, "chat_template.json"));
  return sources_in(processor, format::display_path(folder / "chat_template.json"));
}

/// What the folder's own files say, else the format of a release that came without a template; nothing, and in `why`
/// what is missing, where there is neither.
Result<std::optional<Sources>> find_sources(const fs::path& folder, const ordered_json& tokenizer_config, Status& why) {
  AUTOGLM_ASSIGN_OR_RETURN(std::optional<Sources> own, own_sources(folder, tokenizer_config));
  if (own) return own;
  AUTOGLM_ASSIGN_OR_RETURN(const ordered_json config, read_object(folder, "config.json"));
  AUTOGLM_ASSIGN_OR_RETURN(const std::optional<std::string> code, read_text(folder, "tokenization_chatglm.py"));
  Result<std::string_view> builtin =
      builtin_chat_template(config, tokenizer_config, code ? std::string_view(*code) : std::string_view());
  if (!builtin.ok()) {
    why = builtin.status().with_context(format::display_path(folder));
    return std::optional<Sources>();
  }
  return std::optional<Sources>(
      {std::string(*builtin), std::nullopt, format::display_path(folder) + " (built-in format)"});
}

/// What transformers does to a conversation before rendering: members that are null are dropped, and the reasoning of a
/// message, whatever it is called, is there as reasoning_content (and thinking).
Result<ordered_json> normalized_messages(const ordered_json& messages) {
  if (!messages.is_array() || messages.empty()) return bad_input("a conversation needs at least one message");
  ordered_json out = ordered_json::array();
  for (const ordered_json& message : messages) {
    if (!message.is_object()) return bad_input("message " + std::to_string(out.size() + 1) + " is not a JSON object");
    ordered_json kept = ordered_json::object();
    for (const auto& [key, value] : message.items()) {
      if (!value.is_null()) kept[key] = value;
    }
    for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
      const auto found = kept.find(name);
      if (found == kept.end()) continue;
      const ordered_json reasoning = *found;
      if (!kept.contains("thinking")) {  // the new member stands first, as a template that prints the message shows
        ordered_json with_alias = {{"thinking", reasoning}};
        with_alias.update(kept);
        kept = std::move(with_alias);
      }
      kept["reasoning_content"] = reasoning;
      break;
    }
    out.push_back(std::move(kept));
  }
  return out;
}

}  // namespace

struct ChatTemplate::Impl {
  jinja::Template usual;
  std::optional<jinja::Template> tool_use;
  ordered_json special;
};

Result<std::optional<ChatTemplate::Sources>> ChatTemplate::read_sources(const fs::path& folder) {
  AUTOGLM_ASSIGN_OR_RETURN(const ordered_json tokenizer_config, read_object(folder, "tokenizer_config.json"));
  Status none;
  return find_sources(folder, tokenizer_config, none);
}

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

Result<ChatTemplate> ChatTemplate::parse(std::string_view source, ordered_json special) {
  if (!special.is_null() && !special.is_object()) return invalid_argument("special tokens must be a JSON object");
  Result<jinja::Template> usual = jinja::Template::parse(source);
  if (!usual.ok()) return usual.status().with_context("chat template");
  return ChatTemplate(std::make_unique<Impl>(Impl{std::move(*usual), std::nullopt, std::move(special)}));
}

Result<ChatTemplate> ChatTemplate::load(const fs::path& folder) {
  AUTOGLM_ASSIGN_OR_RETURN(const ordered_json tokenizer_config, read_object(folder, "tokenizer_config.json"));
  AUTOGLM_ASSIGN_OR_RETURN(const ordered_json special_map, read_object(folder, "special_tokens_map.json"));
  Status why;
  AUTOGLM_ASSIGN_OR_RETURN(const std::optional<Sources> found, find_sources(folder, tokenizer_config, why));
  if (!found) return why;
  const Sources& sources = *found;
  Result<ChatTemplate> loaded = parse(sources.usual, special_tokens(tokenizer_config, special_map));
  if (!loaded.ok()) return loaded.status().with_context(sources.where);
  if (sources.tool_use) {
    Result<jinja::Template> tool_use = jinja::Template::parse(*sources.tool_use);
    if (!tool_use.ok()) return tool_use.status().with_context(sources.where + ": template tool_use");
    loaded->impl_->tool_use = std::move(*tool_use);
  }
  return loaded;
}

Result<std::string> ChatTemplate::render(const ordered_json& variables) const {
  if (!variables.is_object() || !variables.contains("messages")) {
    return invalid_argument("a chat template needs an object with the member \"messages\"");
  }
  ordered_json names = {{"tools", nullptr}, {"documents", nullptr}, {"add_generation_prompt", false}};
  if (impl_->special.is_object()) names.update(impl_->special);
  names.update(variables);
  AUTOGLM_ASSIGN_OR_RETURN(names["messages"], normalized_messages(variables["messages"]));
  const bool with_tools = impl_->tool_use && !names["tools"].is_null();
  Result<std::string> text = (with_tools ? *impl_->tool_use : impl_->usual).render(names);
  if (!text.ok()) return text.status().with_context("chat template");
  return text;
}

}  // namespace autoglm::tokenizer
