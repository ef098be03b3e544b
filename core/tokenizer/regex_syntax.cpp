#include "core/tokenizer/regex_syntax.h"

#include <fmt/format.h>

#include <cctype>
#include <optional>
#include <vector>

#include "core/tokenizer/unicode_properties.h"
#include "core/tokenizer/utf8.h"

namespace autoglm::tokenizer {
namespace {

constexpr size_t kMaxPatternBytes = 32768;
constexpr int kMaxSetDepth = 16;

// Superscripts and fractions of Latin-1 count as word characters in Oniguruma, but not in sets.
constexpr std::string_view kLatin1WordDigits = "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}";

// One escape, either a set of characters (class items, perhaps negated) or something to copy.
struct Escape {
  bool is_set = false;
  bool negated = false;
  std::string text;  // items of the set, or PCRE2 syntax
};

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  Result<std::string> run() {
    if (pattern_.size() > kMaxPatternBytes) return bad_input("the regular expression is longer than 32768 bytes");
    while (!at_end()) {
      AUTOGLM_RETURN_IF_ERROR(step());
    }
    return std::move(out_);
  }

 private:
  bool at_end(size_t ahead = 0) const { return at_ + ahead >= pattern_.size(); }
  char peek(size_t ahead = 0) const { return at_end(ahead) ? '\0' : pattern_[at_ + ahead]; }
  bool looking_at(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }

  void atom(std::string_view text) {
    atom_start_ = out_.size();
    out_ += text;
  }

  Status step() {
    const char c = peek();
    switch (c) {
      case '\\': return escape_outside();
      case '[': {
        AUTOGLM_ASSIGN_OR_RETURN(const std::string set, parse_set(0));
        atom(set);
        return ok_status();
      }
      case '(': return open_group();
      case ')':
        ++at_;
        if (groups_.empty()) return bad_input("the regular expression has a ')' without '('");
        out_ += ')';
        atom_start_ = groups_.back();
        groups_.pop_back();
        return ok_status();
      case '|':
        ++at_;
        out_ += '|';
        atom_start_.reset();
        return ok_status();
      case '*':
      case '+':
      case '?':
      case '{': return quantifier();
      default: {
        const size_t size = utf8_step(pattern_, at_).size;
        atom(pattern_.substr(at_, size));
        at_ += size;
        return ok_status();
      }
    }
  }

  // Puts the last atom with its quantifier into a group, so that another quantifier may follow.
  void wrap_atom() {
    out_.insert(*atom_start_, "(?:");
    out_ += ')';
  }

  // {n}, {n,}, {n,m}, {,m}; nothing is consumed when it is none of them, and '{' is literal.
  struct Interval {
    std::string text;
    bool exact = false;
  };
  std::optional<Interval> parse_interval() {
    size_t i = at_ + 1;
    const auto digits = [&] {
      const size_t start = i;
      while (i < pattern_.size() && std::isdigit(static_cast<unsigned char>(pattern_[i]))) ++i;
      return pattern_.substr(start, i - start);
    };
    const std::string_view low = digits();
    std::string_view high;
    const bool comma = i < pattern_.size() && pattern_[i] == ',';
    if (comma) {
      ++i;
      high = digits();
    }
    if (i >= pattern_.size() || pattern_[i] != '}' || (low.empty() && high.empty())) return std::nullopt;
    at_ = i + 1;
    if (!comma) return Interval{fmt::format("{{{}}}", low), true};
    return Interval{fmt::format("{{{},{}}}", low.empty() ? "0" : low, high), false};
  }

  Status quantifier() {
    bool interval = false;
    bool exact = false;
    if (peek() == '{') {
      const std::optional<Interval> parsed = parse_interval();
      if (!parsed) {
        ++at_;
        atom("\\{");
        return ok_status();
      }
      if (!atom_start_) return bad_input("the regular expression repeats nothing");
      if (quantified_at_ == out_.size()) wrap_atom();
      out_ += parsed->text;
      interval = true;
      exact = parsed->exact;
    } else {
      if (!atom_start_) return bad_input("the regular expression repeats nothing");
      if (quantified_at_ == out_.size()) wrap_atom();
      out_ += pattern_[at_++];
    }
    const bool lazy = peek() == '?' && !exact;
    const bool possessive = peek() == '+' && !interval;
    if (lazy || possessive) out_ += pattern_[at_++];
    quantified_at_ = out_.size();
    return ok_status();
  }

  Status open_group() {
    groups_.push_back(out_.size());
    atom_start_.reset();
    ++at_;
    out_ += '(';
    if (peek() != '?') return ok_status();
    if (peek(1) == '~')
      return bad_input("the regular expression uses an absent operator (?~...), which is not supported");
    if (peek(1) == '#') {
      out_ += '?';
      ++at_;
      while (!at_end() && peek() != ')') ++at_;
      out_ += '#';
      return ok_status();
    }
    out_ += '?';
    ++at_;
    // Option letters: Ruby's m lets '.' match a newline, which PCRE2 calls s.
    while (peek() == 'i' || peek() == 'm' || peek() == 'x' || peek() == '-') {
      out_ += peek() == 'm' ? 's' : peek();
      ++at_;
    }
    if (peek() == '<' && peek(1) != '=' && peek(1) != '!') {  // a name may hold letters that step() would rewrite
      while (!at_end() && peek() != '>') out_ += pattern_[at_++];
    }
    static constexpr std::string_view kPunctuation = ":=!><";
    while (!at_end() && kPunctuation.find(peek()) != std::string_view::npos) out_ += pattern_[at_++];
    return ok_status();
  }

  Status escape_outside() {
    if (at_end(1)) return bad_input("the regular expression ends in a backslash");
    const char c = peek(1);
    if (c == 'b' || c == 'B') {
      at_ += 2;
      const std::string w = fmt::format("[{}{}]", word_items(), kLatin1WordDigits);
      atom(c == 'b' ? fmt::format("(?:(?<={0})(?!{0})|(?<!{0})(?={0}))", w)
                    : fmt::format("(?:(?<={0})(?={0})|(?<!{0})(?!{0}))", w));
      return ok_status();
    }
    if (c == 'k' || c == 'g') {
      const size_t close = pattern_.find(peek(2) == '\'' ? '\'' : '>', at_ + 3);
      if (close == std::string_view::npos) return bad_input("the regular expression has a broken back reference");
      atom(pattern_.substr(at_, close + 1 - at_));
      at_ = close + 1;
      return ok_status();
    }
    if (std::string_view("AzZGKRN123456789").find(c) != std::string_view::npos) {
      atom(pattern_.substr(at_, 2));
      at_ += 2;
      return ok_status();
    }
    if (c == 'O') {
      at_ += 2;
      atom("(?s:.)");
      return ok_status();
    }
    AUTOGLM_ASSIGN_OR_RETURN(Escape escape, parse_escape());
    if (c == 'w' || c == 'W') escape.text += kLatin1WordDigits;
    atom(escape.is_set ? fmt::format("[{}{}]", escape.negated ? "^" : "", escape.text) : escape.text);
    return ok_status();
  }

  // An escape that means the same inside and outside of a set; at_ is at the backslash.
  Result<Escape> parse_escape() {
    if (at_end(1)) return bad_input("the regular expression ends in a backslash");
    const char c = peek(1);
    switch (c) {
      case 's':
      case 'S': at_ += 2; return Escape{true, c == 'S', white_space_items()};
      case 'w':
      case 'W': at_ += 2; return Escape{true, c == 'W', word_items()};
      case 'd':
      case 'D': at_ += 2; return Escape{true, c == 'D', digit_items()};
      case 'h':
      case 'H': at_ += 2; return Escape{true, c == 'H', "0-9A-Fa-f"};
      case 'p':
      case 'P': return parse_property(c == 'P');
      case 'v': at_ += 2; return Escape{.text = "\\x{0B}"};
      case 'b': at_ += 2; return Escape{.text = "\\x{08}"};
      case 'u': {
        const std::string_view hex = pattern_.substr(std::min(pattern_.size(), at_ + 2), 4);
        if (hex.size() != 4 || hex.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos) {
          return bad_input("the regular expression has \\u without four hexadecimal digits");
        }
        at_ += 6;
        return Escape{.text = fmt::format("\\x{{{}}}", hex)};
      }
      case 'x': {
        size_t end = at_ + 2;
        if (peek(2) == '{') {
          end = pattern_.find('}', end);
          if (end == std::string_view::npos) return bad_input("the regular expression has \\x{ without }");
          ++end;
        } else {
          while (end < pattern_.size() && end < at_ + 4 && std::isxdigit(static_cast<unsigned char>(pattern_[end])))
            ++end;
        }
        Escape escape{.text = std::string(pattern_.substr(at_, end - at_))};
        at_ = end;
        return escape;
      }
      case 'c':
      case 'C':
      case 'M':
      case 'X':
      case 'y':
      case 'Y': return bad_input(fmt::format("the regular expression uses \\{}, which is not supported", c));
      default: break;
    }
    const size_t size = utf8_step(pattern_, at_ + 1).size;
    const std::string_view character = pattern_.substr(at_ + 1, size);
    at_ += 1 + size;
    const bool copied = size == 1 && (std::ispunct(static_cast<unsigned char>(c)) ||
                                      std::string_view("tnrfae01234567 ").find(c) != std::string_view::npos);
    return Escape{.text = copied ? fmt::format("\\{}", c) : std::string(character)};
  }

  Result<Escape> parse_property(bool negated) {
    if (peek(2) != '{') return bad_input("the regular expression has \\p without {");
    const size_t close = pattern_.find('}', at_);
    if (close == std::string_view::npos) return bad_input("the regular expression has \\p{ without }");
    std::string_view name = pattern_.substr(at_ + 3, close - at_ - 3);
    if (name.starts_with('^')) {
      name.remove_prefix(1);
      negated = !negated;
    }
    AUTOGLM_ASSIGN_OR_RETURN(std::string items, property_items(name));
    at_ = close + 1;
    return Escape{true, negated, std::move(items)};
  }

  // What one operand of && holds: class items, and sets that cannot be written as items.
  struct Operand {
    std::string items;
    std::vector<std::string> sets;

    bool empty() const { return items.empty() && sets.empty(); }
    std::string expression() const {
      std::vector<std::string> parts = sets;
      if (!items.empty()) parts.insert(parts.begin(), fmt::format("[{}]", items));
      return parts.size() == 1 ? parts[0] : fmt::format("(?:{})", fmt::join(parts, "|"));
    }
  };

  // A set [...] with sets inside and intersections; at_ is at '['.
  Result<std::string> parse_set(int depth) {
    if (depth == kMaxSetDepth) return bad_input("the regular expression nests sets deeper than 16 levels");
    ++at_;
    const bool negated = peek() == '^';
    if (negated) ++at_;
    std::vector<Operand> operands(1);
    bool first = true;
    bool after_set = true;  // a '-' here cannot continue a range
    for (;; first = false) {
      if (at_end()) return bad_input("the regular expression has a '[' without ']'");
      Operand& operand = operands.back();
      const char c = peek();
      if (c == ']' && !first) break;
      if (looking_at("&&")) {
        at_ += 2;
        operands.emplace_back();
        after_set = true;
      } else if (looking_at("[:")) {
        AUTOGLM_RETURN_IF_ERROR(parse_posix(operand));
        after_set = true;
      } else if (c == '[') {
        AUTOGLM_ASSIGN_OR_RETURN(std::string nested, parse_set(depth + 1));
        operand.sets.push_back(std::move(nested));
        after_set = true;
      } else if (c == '\\') {
        AUTOGLM_ASSIGN_OR_RETURN(Escape escape, parse_escape());
        after_set = escape.is_set;
        add(operand, std::move(escape));
      } else if (c == '-') {
        ++at_;
        const bool before_set =
            peek() == ']' || peek() == '[' ||
            (peek() == '\\' && std::string_view("sSwWdDhHpP").find(peek(1)) != std::string_view::npos);
        operand.items += after_set || before_set ? "\\-" : "-";
        after_set = after_set || before_set;
      } else {
        const size_t size = utf8_step(pattern_, at_).size;
        if (c == ']' || c == '^') operand.items += '\\';
        operand.items += pattern_.substr(at_, size);
        at_ += size;
        after_set = false;
      }
    }
    ++at_;
    return set_expression(operands, negated);
  }

  static void add(Operand& operand, Escape escape) {
    if (escape.is_set && escape.negated) {
      operand.sets.push_back(fmt::format("[^{}]", escape.text));
    } else {
      operand.items += escape.text;
    }
  }

  Status parse_posix(Operand& operand) {
    const size_t close = pattern_.find(":]", at_ + 2);
    if (close == std::string_view::npos) return bad_input("the regular expression has [: without :]");
    std::string_view name = pattern_.substr(at_ + 2, close - at_ - 2);
    const bool negated = name.starts_with('^');
    if (negated) name.remove_prefix(1);
    AUTOGLM_ASSIGN_OR_RETURN(std::string items, property_items(name));
    if (name == "punct") {  // unlike \p{punct}, with symbols
      AUTOGLM_ASSIGN_OR_RETURN(const std::string symbols, property_items("S"));
      items += symbols;
    }
    at_ = close + 2;
    add(operand, Escape{true, negated, std::move(items)});
    return ok_status();
  }

  static Result<std::string> set_expression(const std::vector<Operand>& operands, bool negated) {
    for (const Operand& operand : operands) {
      if (operand.empty()) return bad_input("the regular expression has an empty set");
    }
    if (operands.size() == 1 && operands[0].sets.empty()) {
      return fmt::format("[{}{}]", negated ? "^" : "", operands[0].items);
    }
    std::string all;
    for (size_t i = 1; i < operands.size(); ++i) all += fmt::format("(?={})", operands[i].expression());
    all = fmt::format("(?:{}{})", all, operands[0].expression());
    return negated ? fmt::format("(?:(?!{})(?s:.))", all) : all;
  }

  std::string_view pattern_;
  size_t at_ = 0;
  std::string out_;
  std::vector<size_t> groups_;        // where in out_ the open groups begin
  std::optional<size_t> atom_start_;  // where in out_ what a quantifier repeats begins
  size_t quantified_at_ = std::string::npos;
};

}  // namespace

Result<std::string> translate_regex(std::string_view pattern) { return Translator(pattern).run(); }

}  // namespace autoglm::tokenizer
