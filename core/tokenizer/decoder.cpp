#include "core/tokenizer/decoder.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/base/suggest.h"
#include "core/tokenizer/byte_level.h"
#include "core/tokenizer/normalizer.h"
#include "core/tokenizer/utf8.h"

namespace autoglm::tokenizer {
namespace {

// Gathers the parts of a fused token for a step that must see it whole.
class Gather final : public DecoderState {
 public:
  void push(std::string token, Sink) override { all_ += token; }
  void finish(Sink sink) override { sink(std::move(all_)); }

 private:
  std::string all_;
};

class JoinWithSpaces final : public DecoderState {
 public:
  void push(std::string token, Sink sink) override {
    if (!first_) token.insert(0, 1, ' ');
    sink(std::move(token));
    first_ = false;
  }

 private:
  bool first_ = true;
};

// Tokens in the byte-level alphabet are the bytes they stand for, others are themselves; ill-formed bytes become
// U+FFFD.
class ByteLevelDecoder final : public DecoderState {
 public:
  void push(std::string token, Sink sink) override {
    bytes_ += from_byte_level(token).value_or(token);
    const size_t ready = bytes_.size() - truncated_utf8_tail(bytes_);
    if (ready == 0) return;
    sink(replace_invalid_utf8(std::string_view(bytes_).substr(0, ready)));
    bytes_.erase(0, ready);
  }
  void finish(Sink sink) override {
    if (!bytes_.empty()) sink(replace_invalid_utf8(bytes_));
  }

 private:
  std::string bytes_;  // the beginning of a character
};

// A run of <0xNN> tokens is the text of these bytes, or one U+FFFD per byte when they are not valid UTF-8.
class ByteFallback final : public DecoderState {
 public:
  void push(std::string token, Sink sink) override {
    if (const int byte = byte_of(token); byte >= 0) {
      run_ += static_cast<char>(byte);
      return;
    }
    finish(sink);
    sink(std::move(token));
  }
  void finish(Sink sink) override {
    if (run_.empty()) return;
    if (is_valid_utf8(run_)) {
      sink(run_);
    } else {
      for (size_t i = 0; i < run_.size(); ++i) sink(std::string(kReplacementCharacter));
    }
    run_.clear();
  }

 private:
  static int byte_of(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return -1;
    int value = 0;
    for (const char c : token.substr(3, 2)) {
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) return -1;
      value = value * 16 + digit;
    }
    return value;
  }

  std::string run_;
};

class ReplaceDecoder final : public DecoderState {
 public:
  explicit ReplaceDecoder(std::shared_ptr<const Replacement> replacement) : replacement_(std::move(replacement)) {}
  void push(std::string token, Sink sink) override { sink(replacement_->apply(token, scratch_)); }

 private:
  std::shared_ptr<const Replacement> replacement_;
  RegexScratch scratch_;
};

// Drops up to `start` of a character from the beginning and up to `stop` from the end: of every token, or of the whole
// when the tokens are parts of one.
class StripDecoder final : public DecoderState {
 public:
  StripDecoder(std::string content, int64_t start, int64_t stop, bool fused)
      : content_(std::move(content)), start_(start), stop_(stop), fused_(fused), left_(start) {}
  void push(std::string token, Sink sink) override {
    if (!fused_) left_ = start_;
    size_t begin = 0;
    for (; left_ > 0 && std::string_view(token).substr(begin).starts_with(content_); --left_) begin += content_.size();
    if (begin < token.size()) left_ = 0;
    token.erase(0, begin);
    if (stop_ == 0) return sink(std::move(token));
    held_ += token;
    size_t count = 0;  // of the character at the end
    size_t end = held_.size();
    while (static_cast<int64_t>(count) < stop_ && std::string_view(held_).substr(0, end).ends_with(content_)) {
      end -= content_.size();
      ++count;
    }
    sink(held_.substr(0, end));
    held_.erase(0, fused_ ? end : held_.size());
  }

 private:
  std::string content_;
  int64_t start_;
  int64_t stop_;
  bool fused_;
  int64_t left_;      // how many more may go from the beginning
  std::string held_;  // what goes, unless more text follows
};

class MetaspaceDecoder final : public DecoderState {
 public:
  MetaspaceDecoder(std::string replacement, bool drop_in_first, bool fused)
      : replacement_(std::move(replacement)), drop_(drop_in_first), fused_(fused) {}
  void push(std::string token, Sink sink) override {
    std::string out;
    for (size_t at = 0; at < token.size();) {
      if (std::string_view(token).substr(at).starts_with(replacement_)) {
        if (!drop_) out += ' ';
        at += replacement_.size();
      } else {
        out += token[at++];
      }
    }
    if (!fused_) drop_ = false;
    sink(std::move(out));
  }

 private:
  std::string replacement_;
  bool drop_;  // in the first token the replacement is dropped
  bool fused_;
};

// The end-of-word suffix becomes a space, and nothing in the last token.
class SuffixDecoder final : public DecoderState {
 public:
  explicit SuffixDecoder(std::string suffix) : suffix_(std::move(suffix)) {}
  void push(std::string token, Sink sink) override {
    if (has_held_) sink(replaced(" "));
    held_ = std::move(token);
    has_held_ = true;
  }
  void finish(Sink sink) override {
    if (has_held_) sink(replaced(""));
  }

 private:
  std::string replaced(std::string_view by) const {
    std::string out;
    for (size_t at = 0; at < held_.size();) {
      if (std::string_view(held_).substr(at).starts_with(suffix_)) {
        out += by;
        at += suffix_.size();
      } else {
        out += held_[at++];
      }
    }
    return out;
  }
  std::string suffix_;
  std::string held_;
  bool has_held_ = false;
};

bool is_one_character(std::string_view text) { return !text.empty() && utf8_step(text, 0).size == text.size(); }

Result<int64_t> count_member(const Json& spec, std::string_view name) {
  AUTOGLM_ASSIGN_OR_RETURN(const int64_t value, integer_member(spec, name));
  if (value < 0) return bad_input(fmt::format("'{}' is negative", name));
  return value;
}

}  // namespace

void DecoderRun::run(size_t step, std::string token, std::string& text) {
  if (step == steps_.size()) {
    text += token;
    return;
  }
  steps_[step]->push(std::move(token), [&](std::string part) { run(step + 1, std::move(part), text); });
}

void DecoderRun::finish(std::string& text) {
  for (size_t i = 0; i < steps_.size(); ++i) {
    steps_[i]->finish([&](std::string part) { run(i + 1, std::move(part), text); });
  }
}

DecoderRun Decoder::start() const {
  std::vector<std::unique_ptr<DecoderState>> states;
  states.reserve(steps_.size());
  for (const Factory& step : steps_) states.push_back(step());
  return DecoderRun(std::move(states));
}

Decoder Decoder::byte_level() {
  Decoder decoder;
  decoder.add_step([] { return std::make_unique<ByteLevelDecoder>(); }, false, true);
  return decoder;
}

Result<Decoder> Decoder::from_json(const Json* spec) {
  Decoder decoder;
  if (!spec) {
    decoder.add_step([] { return std::make_unique<JoinWithSpaces>(); }, false, false);
    return decoder;
  }
  if (Status status = decoder.add(*spec, 0); !status.ok()) return status.with_context("decoder");
  if (Status status = check_growth(decoder.growth_); !status.ok()) return status.with_context("decoder");
  return decoder;
}

void Decoder::add_step(Factory step, bool takes_parts, bool fuses) {
  if (fused_ && !takes_parts) steps_.push_back([] { return std::make_unique<Gather>(); });
  steps_.push_back(std::move(step));
  fused_ = fused_ || fuses;
}

Status Decoder::add(const Json& spec, int depth) {
  if (depth == kMaxSequenceDepth) return bad_input("sequences nest deeper than 16 levels");
  if (steps_.size() >= kMaxSteps) return bad_input("more than 256 steps");
  AUTOGLM_ASSIGN_OR_RETURN(const std::string type, component_type(spec));
  const bool fused = fused_;
  if (type == "Sequence") {
    AUTOGLM_ASSIGN_OR_RETURN(const Json* parts, array_member(spec, "decoders"));
    for (const Json& part : *parts) AUTOGLM_RETURN_IF_ERROR(add(part, depth + 1));
  } else if (type == "ByteLevel") {
    add_step([] { return std::make_unique<ByteLevelDecoder>(); }, false, true);
  } else if (type == "ByteFallback") {
    add_step([] { return std::make_unique<ByteFallback>(); }, false, false);
  } else if (type == "Fuse") {
    fused_ = true;
  } else if (type == "Replace") {
    Result<Replacement> parsed = Replacement::from_json(spec);
    if (!parsed.ok()) return parsed.status().with_context(type);
    auto replacement = std::make_shared<const Replacement>(std::move(*parsed));
    growth_ *= replacement->growth;
    add_step([replacement] { return std::make_unique<ReplaceDecoder>(replacement); }, replacement->one_character,
             false);
  } else if (type == "Strip") {
    AUTOGLM_ASSIGN_OR_RETURN(const std::string content, string_member(spec, "content"));
    if (!is_one_character(content)) return bad_input("Strip: 'content' must be one character");
    AUTOGLM_ASSIGN_OR_RETURN(const int64_t start, count_member(spec, "start"));
    AUTOGLM_ASSIGN_OR_RETURN(const int64_t stop, count_member(spec, "stop"));
    add_step([=] { return std::make_unique<StripDecoder>(content, start, stop, fused); }, true, false);
  } else if (type == "Metaspace") {
    AUTOGLM_ASSIGN_OR_RETURN(const std::string replacement, string_member(spec, "replacement"));
    if (!is_one_character(replacement)) return bad_input("Metaspace: 'replacement' must be one character");
    AUTOGLM_ASSIGN_OR_RETURN(const bool add_prefix_space, bool_member(spec, "add_prefix_space", true));
    AUTOGLM_ASSIGN_OR_RETURN(const std::string scheme, string_member(spec, "prepend_scheme", "always"));
    const bool drop = add_prefix_space && scheme != "never";
    add_step([=] { return std::make_unique<MetaspaceDecoder>(replacement, drop, fused); }, true, false);
  } else if (type == "BPEDecoder") {
    AUTOGLM_ASSIGN_OR_RETURN(const std::string suffix, string_member(spec, "suffix"));
    if (suffix.empty()) return bad_input("BPEDecoder: 'suffix' is empty");
    add_step([suffix] { return std::make_unique<SuffixDecoder>(suffix); }, false, false);
  } else {
    static const std::vector<std::string> known = {"Sequence", "ByteLevel", "ByteFallback", "Fuse",
                                                   "Replace",  "Strip",     "Metaspace",    "BPEDecoder"};
    return bad_input(unknown_word("type", type, known));
  }
  return ok_status();
}

}  // namespace autoglm::tokenizer
