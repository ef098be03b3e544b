#pragma once
/// ChatTemplate: turns a conversation into the text a model was trained on, by interpreting the checkpoint's own Jinja
/// template (the subset that chat templates use). A construct outside that subset is refused by name when loading.
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/base/status.h"

namespace autoglm::tokenizer {

class ChatTemplate {
 public:
  /// Reads chat_template.jinja, else `chat_template` of tokenizer_config.json (a string, or a list with a "default").
  /// A folder of a family that ships none but is known (ChatGLM2/3) gets that family's format.
  static Result<ChatTemplate> load(const std::filesystem::path& folder);

  /// Parses a template given as text; `special` binds names such as bos_token and eos_token.
  static Result<ChatTemplate> parse(std::string_view source, nlohmann::ordered_json special = {});

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  /// Renders as transformers' apply_chat_template(tokenize=False). `variables` is an object; the usual members are
  /// `messages` (a list), `tools` (a list, optional), `add_generation_prompt` (bool). kBadInput carries the template's
  /// own raise_exception message or the line of the template that failed. Bounded: a template that runs away is
  /// stopped with kBadInput. Thread-safe.
  Result<std::string> render(const nlohmann::ordered_json& variables) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace autoglm::tokenizer
