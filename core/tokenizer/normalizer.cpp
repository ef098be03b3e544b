#include "core/tokenizer/normalizer.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <functional>

#include "core/base/suggest.h"
#include "core/tokenizer/byte_level.h"
#include "core/tokenizer/utf8.h"

namespace autoglm::tokenizer {
namespace {

bool is_ascii(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

class UnicodeForm final : public NormalizerStep {
 public:
  explicit UnicodeForm(int options) : options_(options) {}
  void apply(std::string& text, RegexScratch&) const override {
    if (is_ascii(text)) return;
    utf8proc_uint8_t* mapped = nullptr;
    const utf8proc_ssize_t size =
        utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                     &mapped, static_cast<utf8proc_option_t>(options_ | UTF8PROC_STABLE));
    if (size >= 0) text.assign(reinterpret_cast<const char*>(mapped), static_cast<size_t>(size));
    std::free(mapped);  // NOLINT(cppcoreguidelines-no-malloc): utf8proc allocates with malloc
  }

 private:
  int options_;
};

// Maps every character on its own.
class CharacterMap final : public NormalizerStep {
 public:
  using Map = void (*)(char32_t c, std::string& out);
  explicit CharacterMap(Map map) : map_(map) {}
  void apply(std::string& text, RegexScratch&) const override {
    std::string out;
    out.reserve(text.size());
    for (size_t at = 0; at < text.size();) {
      const Utf8Step step = utf8_step(text, at);
      map_(step.value, out);
      at += step.size;
    }
    text = std::move(out);
  }

 private:
  Map map_;
};

void lowercase(char32_t c, std::string& out) {
  if (c == 0x130) {  // the only character whose lower case is two characters (SpecialCasing.txt)
    out += "i\xCC\x87";
    return;
  }
  append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
}

void strip_accents(char32_t c, std::string& out) {
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  const bool mark =
      category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC || category == UTF8PROC_CATEGORY_ME;
  if (!mark) append_utf8(out, c);
}

class Replace final : public NormalizerStep {
 public:
  explicit Replace(Replacement replacement) : replacement_(std::move(replacement)) {}
  void apply(std::string& text, RegexScratch& scratch) const override { text = replacement_.apply(text, scratch); }
  double growth() const override { return replacement_.growth; }

 private:
  Replacement replacement_;
};

class Prepend final : public NormalizerStep {
 public:
  explicit Prepend(std::string text) : text_(std::move(text)) {}
  void apply(std::string& text, RegexScratch&) const override {
    if (!text.empty()) text.insert(0, text_);
  }

 private:
  std::string text_;
};

class ByteLevelMap final : public NormalizerStep {
 public:
  void apply(std::string& text, RegexScratch&) const override { text = to_byte_level(text); }
  double growth() const override { return 2; }
};

Result<Regex> strip_pattern(const Json& spec) {
  AUTOGLM_ASSIGN_OR_RETURN(const bool left, bool_member(spec, "strip_left"));
  AUTOGLM_ASSIGN_OR_RETURN(const bool right, bool_member(spec, "strip_right"));
  return Regex::compile(left && right ? "\\A\\s+|\\s+\\z" : left ? "\\A\\s+" : right ? "\\s+\\z" : "[^\\s\\S]");
}

using Build = std::function<Result<std::unique_ptr<NormalizerStep>>(const Json&)>;
using StepPtr = std::unique_ptr<NormalizerStep>;

template <typename Step, typename... Args>
Build fixed(Args... args) {
  return [=](const Json&) -> Result<StepPtr> { return StepPtr(std::make_unique<Step>(args...)); };
}

const std::vector<std::pair<std::string, Build>>& known_steps() {
  static const std::vector<std::pair<std::string, Build>> steps = {
      {"NFC", fixed<UnicodeForm>(UTF8PROC_COMPOSE)},
      {"NFD", fixed<UnicodeForm>(UTF8PROC_DECOMPOSE)},
      {"NFKC", fixed<UnicodeForm>(UTF8PROC_COMPOSE | UTF8PROC_COMPAT)},
      {"NFKD", fixed<UnicodeForm>(UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT)},
      {"Lowercase", fixed<CharacterMap>(&lowercase)},
      {"StripAccents", fixed<CharacterMap>(&strip_accents)},
      {"ByteLevel", fixed<ByteLevelMap>()},
      {"Prepend",
       [](const Json& spec) -> Result<StepPtr> {
         AUTOGLM_ASSIGN_OR_RETURN(std::string text, string_member(spec, "prepend"));
         if (text.size() > kMaxGrowth) return bad_input("'prepend' is longer than 256 bytes");
         return StepPtr(std::make_unique<Prepend>(std::move(text)));
       }},
      {"Replace",
       [](const Json& spec) -> Result<StepPtr> {
         AUTOGLM_ASSIGN_OR_RETURN(Replacement replacement, Replacement::from_json(spec));
         return StepPtr(std::make_unique<Replace>(std::move(replacement)));
       }},
      {"Strip",
       [](const Json& spec) -> Result<StepPtr> {
         AUTOGLM_ASSIGN_OR_RETURN(Regex pattern, strip_pattern(spec));
         return StepPtr(std::make_unique<Replace>(Replacement{.pattern = std::move(pattern)}));
       }},
  };
  return steps;
}

}  // namespace

Result<Regex> pattern_member(const Json& component) {
  const Json* pattern = find_member(component, "pattern");
  if (!pattern) return bad_input("'pattern' is missing");
  if (find_member(*pattern, "String")) {
    AUTOGLM_ASSIGN_OR_RETURN(const std::string text, string_member(*pattern, "String"));
    return Regex::literal(text);
  }
  AUTOGLM_ASSIGN_OR_RETURN(const std::string source, string_member(*pattern, "Regex"));
  return Regex::compile(source);
}

Result<Replacement> Replacement::from_json(const Json& component) {
  AUTOGLM_ASSIGN_OR_RETURN(Regex pattern, pattern_member(component));
  Replacement replacement{.pattern = std::move(pattern)};
  AUTOGLM_ASSIGN_OR_RETURN(replacement.content, string_member(component, "content"));
  const auto added = static_cast<double>(replacement.content.size());
  const Json* literal = find_member(component.at("pattern"), "String");
  const std::string text = literal ? literal->get<std::string>() : "";
  replacement.one_character = !text.empty() && utf8_step(text, 0).size == text.size();
  // A regular expression may match nothing, and so add its content at every byte.
  replacement.growth = text.empty() ? 1 + added : std::max(1.0, added / static_cast<double>(text.size()));
  return replacement;
}

std::string Replacement::apply(std::string_view text, RegexScratch& scratch) const {
  std::string out;
  size_t copied = 0;
  pattern.for_each_match(text, scratch, [&](Match match) {
    out += text.substr(copied, match.begin - copied);
    out += content;
    copied = match.end;
  });
  out += text.substr(copied);
  return out;
}

Status check_growth(double growth) {
  return growth <= kMaxGrowth ? ok_status() : bad_input("the steps may make text more than 256 times longer");
}

Result<Normalizer> Normalizer::from_json(const Json* spec) {
  Normalizer normalizer;
  if (spec) {
    if (Status status = normalizer.add(*spec, 0); !status.ok()) return status.with_context("normalizer");
    double growth = 1;
    for (const auto& step : normalizer.steps_) growth *= step->growth();
    if (Status status = check_growth(growth); !status.ok()) return status.with_context("normalizer");
  }
  return normalizer;
}

Status Normalizer::add(const Json& spec, int depth) {
  if (depth == kMaxSequenceDepth) return bad_input("sequences nest deeper than 16 levels");
  if (steps_.size() >= kMaxSteps) return bad_input("more than 256 steps");
  AUTOGLM_ASSIGN_OR_RETURN(const std::string type, component_type(spec));
  if (type == "Sequence") {
    AUTOGLM_ASSIGN_OR_RETURN(const Json* parts, array_member(spec, "normalizers"));
    for (const Json& part : *parts) AUTOGLM_RETURN_IF_ERROR(add(part, depth + 1));
    return ok_status();
  }
  std::vector<std::string> names = {"Sequence"};
  for (const auto& [name, build] : known_steps()) {
    if (name == type) {
      Result<StepPtr> step = build(spec);
      if (!step.ok()) return step.status().with_context(type);
      steps_.push_back(std::move(*step));
      return ok_status();
    }
    names.push_back(name);
  }
  return bad_input(unknown_word("type", type, names));
}

}  // namespace autoglm::tokenizer
