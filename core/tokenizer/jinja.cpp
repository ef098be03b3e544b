#include "core/tokenizer/jinja.h"

#include <new>

#include "core/tokenizer/jinja_eval.h"
#include "core/tokenizer/jinja_parser.h"

namespace autoglm::tokenizer::jinja {
namespace {

/// What a template says of itself, on one line and bounded: it may come from the template's own text.
std::string one_line(std::string_view message) {
  std::string out;
  for (const char c : message.substr(0, 1000)) {
    const bool control = static_cast<unsigned char>(c) < 0x20 || c == 0x7F;
    out += !control ? std::string(1, c) : c == '\n' ? "\\n" : " ";
  }
  return out;
}

/// Runs `work`, whose exceptions become a Status.
template <typename T, typename Work>
Result<T> guarded(Work work) {
  try {
    return work();
  } catch (const Error& error) {
    return bad_input((error.line > 0 ? "line " + std::to_string(error.line) + ": " : "") + one_line(error.what()));
  } catch (const std::bad_alloc&) {
    return resource_exhausted("not enough memory for a chat template");
  } catch (const std::exception& error) {
    return internal_error(std::string("chat template: ") + error.what());
  }
}

}  // namespace

struct Template::Impl {
  Block program;
};

Template::Template(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;
Template::~Template() = default;

Result<Template> Template::parse(std::string_view source) {
  return guarded<Template>([&] { return Template(std::make_unique<Impl>(Impl{jinja::parse(source)})); });
}

Result<std::string> Template::render(const nlohmann::ordered_json& variables, const Limits& limits) const {
  return guarded<std::string>([&] {
    Budget budget(limits);
    std::unordered_map<std::string, Value> names;
    for (const auto& [name, value] : variables.items()) names.emplace(name, budget.from_json(value));
    return Interpreter(budget, std::move(names)).run(impl_->program);
  });
}

}  // namespace autoglm::tokenizer::jinja
