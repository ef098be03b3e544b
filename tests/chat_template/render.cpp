/// Renders chat templates for the tests: a JSON list of cases on standard input, the list of results on standard
/// output.
///
/// A case is {"template", "special", "variables"}, {"folder", "variables"}, or, with "plain": true, a template that is
/// rendered without what ChatTemplate does to conversations. A result is {"text"} or {"error"}.
#include <iostream>
#include <iterator>

#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/jinja.h"

namespace {

using autoglm::Result;
using autoglm::tokenizer::ChatTemplate;
using nlohmann::ordered_json;

Result<std::string> render(const ordered_json& test) {
  const ordered_json& variables = test.at("variables");
  if (test.contains("folder")) {
    AUTOGLM_ASSIGN_OR_RETURN(const ChatTemplate loaded, ChatTemplate::load(test["folder"].get<std::string>()));
    return loaded.render(variables);
  }
  const std::string source = test.at("template");
  if (test.value("plain", false)) {
    AUTOGLM_ASSIGN_OR_RETURN(const auto parsed, autoglm::tokenizer::jinja::Template::parse(source));
    return parsed.render(variables);
  }
  AUTOGLM_ASSIGN_OR_RETURN(const ChatTemplate parsed,
                           ChatTemplate::parse(source, test.value("special", ordered_json())));
  return parsed.render(variables);
}

}  // namespace

int main() {
  const std::string input{std::istreambuf_iterator<char>(std::cin), {}};
  ordered_json results = ordered_json::array();
  for (const ordered_json& test : ordered_json::parse(input)) {
    const Result<std::string> result = render(test);
    results.push_back(result.ok() ? ordered_json{{"text", *result}}
                                  : ordered_json{{"error", result.status().message()}});
  }
  std::cout << results.dump();
}
