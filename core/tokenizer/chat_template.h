#pragma once
/// ChatTemplate: turns a conversation into the text a model was trained on, by interpreting the checkpoint's own Jinja
/// template (the part of Jinja that chat templates use, jinja.h). A construct outside it is refused by name when
/// loading.
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "core/base/status.h"

namespace autoglm::tokenizer {

class ChatTemplate {
 public:
  /// Reads chat_template.jinja (and additional_chat_templates/tool_use.jinja), else `chat_template` of
  /// tokenizer_config.json (a string, or a list with a "default" and perhaps a "tool_use"), else that of
  /// chat_template.json; binds bos_token and its like. A ChatGLM2, ChatGLM3 or first GLM-4 folder without a template
  /// gets that release's format. kBadInput when there is none, with the file and line when it is wrong or unsupported.
  static Result<ChatTemplate> load(const std::filesystem::path& folder);

  /// The sources of a folder's templates, unparsed: the usual one, and one for conversations with tools where it is
  /// another. Nothing where `load` would find none.
  struct Sources {
    std::string usual;
    std::optional<std::string> tool_use;
    std::string where;  ///< the file, for messages
  };
  static Result<std::optional<Sources>> read_sources(const std::filesystem::path& folder);

  /// Parses a template given as text; `special` binds names such as bos_token and eos_token.
  static Result<ChatTemplate> parse(std::string_view source, nlohmann::ordered_json special = {});

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  /// Renders as transformers' apply_chat_template(tokenize=False): null members of a message are dropped, `tools` and
  /// `documents` default to none, `add_generation_prompt` to false, and the "tool_use" template is taken when there are
  /// tools. `variables` is an object; `messages` (a list) is required, every other member is a name for the template.
  /// kBadInput carries the template's own raise_exception message or the line of the template that failed. Bounded: a
  /// template that runs away is stopped with kBadInput. Thread-safe.
  Result<std::string> render(const nlohmann::ordered_json& variables) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace autoglm::tokenizer
