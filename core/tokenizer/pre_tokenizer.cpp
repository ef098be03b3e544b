#include "core/tokenizer/pre_tokenizer.h"

#include <fmt/format.h>

#include <functional>
#include <string>

#include "core/base/suggest.h"
#include "core/tokenizer/byte_level.h"
#include "core/tokenizer/normalizer.h"
#include "core/tokenizer/utf8.h"

namespace autoglm::tokenizer {
namespace {

// GPT-2's own splitting (encoder.py of its release).
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// What becomes of the matches of a splitting pattern.
enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

Result<Behavior> parse_behavior(std::string_view name) {
  static const std::vector<std::string> names = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                                 "Contiguous"};
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) return static_cast<Behavior>(i);
  }
  return bad_input(unknown_word("behavior", name, names));
}

// Splits at the matches of a pattern; `invert` swaps matches and what lies between them.
class Split final : public PreTokenizerStep {
 public:
  Split(Regex pattern, Behavior behavior, bool invert = false)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  void split(Piece piece, RegexScratch& scratch, PieceSink sink) const override {
    // The part that is not given out yet: [begin, end), a match or not, possibly already merged.
    size_t begin = 0;
    size_t end = 0;
    bool open = false;
    bool last_is_match = false;
    const auto give = [&] {
      if (open && begin != end) sink({piece.text.substr(begin, end - begin), piece.at_start && begin == 0});
      open = false;
    };
    const auto part = [&](size_t from, size_t to, bool is_match) {
      if (!(open && merges(last_is_match, is_match))) {
        give();
        begin = from;
        open = !(behavior_ == Behavior::kRemoved && is_match);
      }
      end = to;
      last_is_match = is_match;
    };
    size_t done = 0;
    pattern_.for_each_match(piece.text, scratch, [&](Match match) {
      if (match.begin > done) part(done, match.begin, invert_);
      part(match.begin, match.end, !invert_);
      done = match.end;
    });
    if (done < piece.text.size()) part(done, piece.text.size(), invert_);
    give();
  }

 private:
  // Whether a part joins the part before it.
  bool merges(bool before_is_match, bool is_match) const {
    switch (behavior_) {
      case Behavior::kRemoved:
      case Behavior::kIsolated: return false;
      case Behavior::kMergedWithPrevious: return is_match && !before_is_match;
      case Behavior::kMergedWithNext: return !is_match && before_is_match;
      case Behavior::kContiguous: return is_match == before_is_match;
    }
    return false;
  }

  Regex pattern_;
  Behavior behavior_;
  bool invert_;
};

// Puts a space before text that has none.
class AddPrefixSpace final : public PreTokenizerStep {
 public:
  void split(Piece piece, RegexScratch&, PieceSink sink) const override {
    if (piece.text.starts_with(' ')) return sink(piece);
    std::string text(1, ' ');
    text += piece.text;
    sink({text, piece.at_start});
  }
};

class MapToByteLevel final : public PreTokenizerStep {
 public:
  void split(Piece piece, RegexScratch&, PieceSink sink) const override {
    const std::string text = to_byte_level(piece.text);
    sink({text, piece.at_start});
  }
  double growth() const override { return 2; }
};

// Writes spaces as another character, and one before the text.
class Metaspace final : public PreTokenizerStep {
 public:
  enum class Prepend { kNever, kFirst, kAlways };
  Metaspace(std::string replacement, Prepend prepend) : replacement_(std::move(replacement)), prepend_(prepend) {}

  void split(Piece piece, RegexScratch&, PieceSink sink) const override {
    std::string text;
    for (const char c : piece.text) {
      if (c == ' ') {
        text += replacement_;
      } else {
        text += c;
      }
    }
    const bool wanted = prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && piece.at_start);
    if (wanted && !text.starts_with(replacement_)) text.insert(0, replacement_);
    sink({text, piece.at_start});
  }
  double growth() const override { return static_cast<double>(replacement_.size()) + 1; }

 private:
  std::string replacement_;
  Prepend prepend_;
};

using StepPtr = std::unique_ptr<PreTokenizerStep>;
using Steps = std::vector<StepPtr>;
using Build = std::function<Status(const Json&, Steps&)>;

Status add_split(Steps& steps, std::string_view pattern, Behavior behavior, bool invert = false) {
  AUTOGLM_ASSIGN_OR_RETURN(Regex regex, Regex::compile(pattern));
  steps.push_back(std::make_unique<Split>(std::move(regex), behavior, invert));
  return ok_status();
}

Status build_split(const Json& spec, Steps& steps) {
  AUTOGLM_ASSIGN_OR_RETURN(Regex pattern, pattern_member(spec));
  AUTOGLM_ASSIGN_OR_RETURN(const std::string name, string_member(spec, "behavior"));
  AUTOGLM_ASSIGN_OR_RETURN(const Behavior behavior, parse_behavior(name));
  AUTOGLM_ASSIGN_OR_RETURN(const bool invert, bool_member(spec, "invert", false));
  steps.push_back(std::make_unique<Split>(std::move(pattern), behavior, invert));
  return ok_status();
}

Status build_byte_level(const Json& spec, Steps& steps) {
  AUTOGLM_ASSIGN_OR_RETURN(const bool add_prefix_space, bool_member(spec, "add_prefix_space"));
  AUTOGLM_ASSIGN_OR_RETURN(const bool use_regex, bool_member(spec, "use_regex", true));
  if (add_prefix_space) steps.push_back(std::make_unique<AddPrefixSpace>());
  if (use_regex) AUTOGLM_RETURN_IF_ERROR(add_split(steps, kGpt2Pattern, Behavior::kIsolated));
  steps.push_back(std::make_unique<MapToByteLevel>());
  return ok_status();
}

Status build_metaspace(const Json& spec, Steps& steps) {
  AUTOGLM_ASSIGN_OR_RETURN(const std::string replacement, string_member(spec, "replacement"));
  if (replacement.empty() || utf8_step(replacement, 0).size != replacement.size()) {
    return bad_input("'replacement' must be one character");
  }
  AUTOGLM_ASSIGN_OR_RETURN(const bool add_prefix_space, bool_member(spec, "add_prefix_space", true));
  AUTOGLM_ASSIGN_OR_RETURN(std::string scheme, string_member(spec, "prepend_scheme", "always"));
  static const std::vector<std::string> schemes = {"never", "first", "always"};
  const auto found = std::ranges::find(schemes, scheme);
  if (found == schemes.end()) return bad_input(unknown_word("prepend_scheme", scheme, schemes));
  if (!add_prefix_space && find_member(spec, "prepend_scheme") && scheme != "never") {
    return bad_input("'add_prefix_space' contradicts 'prepend_scheme'");
  }
  const auto prepend =
      add_prefix_space ? static_cast<Metaspace::Prepend>(found - schemes.begin()) : Metaspace::Prepend::kNever;
  steps.push_back(std::make_unique<Metaspace>(replacement, prepend));
  AUTOGLM_ASSIGN_OR_RETURN(const bool split, bool_member(spec, "split", true));
  if (!split) return ok_status();
  AUTOGLM_ASSIGN_OR_RETURN(Regex pattern, Regex::literal(replacement));
  steps.push_back(std::make_unique<Split>(std::move(pattern), Behavior::kMergedWithNext));
  return ok_status();
}

const std::vector<std::pair<std::string, Build>>& known_steps() {
  static const std::vector<std::pair<std::string, Build>> steps = {
      {"Split", build_split},
      {"ByteLevel", build_byte_level},
      {"Metaspace", build_metaspace},
      {"Digits",
       [](const Json& spec, Steps& out) -> Status {
         AUTOGLM_ASSIGN_OR_RETURN(const bool individual, bool_member(spec, "individual_digits"));
         return add_split(out, "\\p{N}", individual ? Behavior::kIsolated : Behavior::kContiguous);
       }},
      {"Punctuation",
       [](const Json& spec, Steps& out) -> Status {
         AUTOGLM_ASSIGN_OR_RETURN(const std::string name, string_member(spec, "behavior", "Isolated"));
         AUTOGLM_ASSIGN_OR_RETURN(const Behavior behavior, parse_behavior(name));
         return add_split(out, "[\\p{P}$+<=>^`|~]", behavior);
       }},
      {"Whitespace",
       [](const Json&, Steps& out) {
         const std::string word = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}";
         return add_split(out, fmt::format("[{0}]+|[^{0}\\s]+", word), Behavior::kRemoved, true);
       }},
      {"WhitespaceSplit", [](const Json&, Steps& out) { return add_split(out, "\\s", Behavior::kRemoved); }},
      {"CharDelimiterSplit",
       [](const Json& spec, Steps& out) -> Status {
         AUTOGLM_ASSIGN_OR_RETURN(const std::string delimiter, string_member(spec, "delimiter"));
         AUTOGLM_ASSIGN_OR_RETURN(Regex pattern, Regex::literal(delimiter));
         out.push_back(std::make_unique<Split>(std::move(pattern), Behavior::kRemoved));
         return ok_status();
       }},
  };
  return steps;
}

Status add_steps(const Json& spec, int depth, Steps& steps) {
  if (depth == kMaxSequenceDepth) return bad_input("sequences nest deeper than 16 levels");
  if (steps.size() >= kMaxSteps) return bad_input("more than 256 steps");
  AUTOGLM_ASSIGN_OR_RETURN(const std::string type, component_type(spec));
  if (type == "Sequence") {
    AUTOGLM_ASSIGN_OR_RETURN(const Json* parts, array_member(spec, "pretokenizers"));
    for (const Json& part : *parts) AUTOGLM_RETURN_IF_ERROR(add_steps(part, depth + 1, steps));
    return ok_status();
  }
  std::vector<std::string> names = {"Sequence"};
  for (const auto& [name, build] : known_steps()) {
    if (name == type) return build(spec, steps).with_context(type);
    names.push_back(name);
  }
  return bad_input(unknown_word("type", type, names));
}

}  // namespace

Result<PreTokenizer> PreTokenizer::from_json(const Json* spec) {
  PreTokenizer pre_tokenizer;
  if (!spec) return pre_tokenizer;
  Steps& steps = pre_tokenizer.steps_;
  if (Status status = add_steps(*spec, 0, steps); !status.ok()) return status.with_context("pre_tokenizer");
  double growth = 1;
  for (const StepPtr& step : steps) growth *= step->growth();
  if (Status status = check_growth(growth); !status.ok()) return status.with_context("pre_tokenizer");
  if (!steps.empty() && dynamic_cast<const MapToByteLevel*>(steps.back().get())) {
    steps.pop_back();
    pre_tokenizer.ends_byte_level_ = true;
  }
  return pre_tokenizer;
}

Result<PreTokenizer> PreTokenizer::byte_level(std::string_view pattern) {
  PreTokenizer pre_tokenizer;
  AUTOGLM_RETURN_IF_ERROR(add_split(pre_tokenizer.steps_, pattern, Behavior::kIsolated));
  pre_tokenizer.ends_byte_level_ = true;
  return pre_tokenizer;
}

void PreTokenizer::run(size_t step, Piece piece, RegexScratch& scratch, PieceSink sink) const {
  if (piece.text.empty()) return;
  if (step == steps_.size()) return sink(piece);
  if (step + 1 == steps_.size()) return steps_[step]->split(piece, scratch, sink);
  steps_[step]->split(piece, scratch, [&](Piece part) { run(step + 1, part, scratch, sink); });
}

}  // namespace autoglm::tokenizer
