#pragma once
/// Normalizers of tokenizer.json: what is done to text before it is split.
#include <memory>
#include <string>
#include <vector>

#include "core/tokenizer/json_members.h"
#include "core/tokenizer/regex.h"

namespace autoglm::tokenizer {

/// One step; immutable, may be shared between threads.
class NormalizerStep {
 public:
  virtual ~NormalizerStep() = default;
  virtual void apply(std::string& text, RegexScratch& scratch) const = 0;
  virtual double growth() const { return 1; }  ///< how many times longer text can become, at most
};

/// A sequence of steps, possibly none. Text stays valid UTF-8.
class Normalizer {
 public:
  /// Reads "normalizer" (null gives no steps). kBadInput names what is unknown or broken.
  static Result<Normalizer> from_json(const Json* spec);

  bool empty() const { return steps_.empty(); }
  void apply(std::string& text, RegexScratch& scratch) const {
    for (const auto& step : steps_) step->apply(text, scratch);
  }

 private:
  Status add(const Json& spec, int depth);
  std::vector<std::unique_ptr<NormalizerStep>> steps_;
};

/// What a Replace component does: every match of a pattern becomes `content`.
struct Replacement {
  static Result<Replacement> from_json(const Json& component);

  std::string apply(std::string_view text, RegexScratch& scratch) const;

  Regex pattern;
  std::string content;
  double growth = 1;           ///< how many times longer text can become, at most
  bool one_character = false;  ///< the pattern is one literal character
};

/// The regex of {"Regex": "..."} or {"String": "..."}.
Result<Regex> pattern_member(const Json& component);

/// kBadInput where the growth of all steps together is over kMaxGrowth.
Status check_growth(double growth);

}  // namespace autoglm::tokenizer
