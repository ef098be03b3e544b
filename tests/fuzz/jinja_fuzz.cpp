/// Chat templates: parsed and, with a conversation, rendered under small limits.
#include <cstddef>
#include <cstdint>

#include "core/tokenizer/jinja.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace autoglm::tokenizer::jinja;
  static const nlohmann::ordered_json variables = {
      {"messages", {{{"role", "user"}, {"content", "héllo\n 你好"}}, {{"role", "assistant"}, {"content", "x,y z"}}}},
      {"tools", {{{"type", "function"}, {"function", {{"name", "f"}, {"parameters", {{"a", {1, 2.5, nullptr}}}}}}}}},
      {"add_generation_prompt", true}};
  constexpr Limits kLimits = {.max_steps = 100'000, .max_output = 1 << 20, .max_elements = 10'000, .max_range = 10'000};
  const auto parsed = Template::parse({reinterpret_cast<const char*>(data), size});
  if (!parsed.ok()) return 0;
  const auto text = parsed->render(variables, kLimits);
  if (text.ok() && text->size() > kLimits.max_output) __builtin_trap();
  return 0;
}
