#pragma once
/// Recipe: what a person wants done with which module. From options or a file; resolve.h applies it to a model.
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compress/calibrate/observer.h"
#include "compress/pass/scheme.h"
#include "core/base/status.h"

namespace autoglm::pass {

/// Modules whose name `pattern` matches anywhere (format::Regex) get this instead.
struct Override {
  std::string pattern;
  std::optional<Scheme> scheme;  ///< none: the module is kept as it is ("keep")
  std::string method;            ///< "": the recipe's
};

inline constexpr int64_t kMaxEpochs = 1000;    ///< of refinement
inline constexpr int64_t kMaxSteps = 1000000;  ///< of reconstruction

struct Recipe {
  Scheme scheme = *Scheme::parse("int4");  ///< of every linear module of the blocks
  std::string method;                      ///< "": gptq where there is calibration text, else rtn
  std::optional<Scheme> embedding;         ///< none: kept
  std::optional<Scheme> head;              ///< none: kept
  std::vector<Override> overrides;         ///< the first that matches decides; comes before the members above
  std::vector<std::string> ignore;         ///< regexes of modules that are kept; comes before everything
  calibrate::Observer observer = calibrate::Observer::kPercentile;  ///< of the ranges of static activations
  bool bias_correction = true;                                      ///< of calibrated modules that have a bias
  double repair = 0;        ///< more bits for a matrix that loses more than this share of its outputs; 0: for none
  int64_t reconstruct = 0;  ///< steps that train each block's rounding and scales against the source's
  int64_t refine = 0;       ///< passes over the calibration text that train what costs no bytes
  nlohmann::json methods = nlohmann::json::object();  ///< options by method: {"gptq": {"damping": 0.05}}

  /// {"scheme": "int4", "method": "gptq", "embedding": "int8", "head": "keep", "ignore": ["…"], "observer":
  /// "percentile",
  ///  "bias_correction": true, "repair": 0.05,
  ///  "overrides": [{"match": "…", "scheme": "int8", "method": "rtn"}], "reconstruct": 200, "refine": 2, "methods":
  ///  {"gptq":
  /// {…}}}; what is absent stays as in `base`.
  /// kInvalidArgument names what is unknown (with the nearest known word) or wrong.
  static Result<Recipe> from_json(const nlohmann::json& json, Recipe base);
  static Result<Recipe> from_json(const nlohmann::json& json);  ///< over the defaults
  /// Complete: from_json(to_json()) gives the same recipe.
  nlohmann::ordered_json to_json() const;

  /// "PATTERN=SCHEME", as given on a command line; SCHEME may be "keep" and may end in ":METHOD".
  static Result<Override> parse_override(std::string_view text);
};

/// kInvalidArgument: no regular expression that can be used.
Status check_pattern(std::string_view pattern);

/// "keep" gives none.
Result<std::optional<Scheme>> parse_scheme_or_keep(std::string_view word);

}  // namespace autoglm::pass
