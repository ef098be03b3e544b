#include "compress/pass/resolve.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <tuple>

#include "core/base/suggest.h"
#include "core/format/display.h"
#include "core/format/regex.h"

namespace autoglm::pass {
namespace {

using format::ModelConfig;
using format::ModuleSpec;
using format::Role;
using format::TensorLayout;

bool is_expert(const ModuleSpec& module) { return module.expert >= 0; }
bool can_be_quantized(Role role) { return format::is_linear(role) || role == Role::kEmbedding; }

/// Applies a recipe to module names, and remembers which patterns found something.
class Matcher {
 public:
  static Result<Matcher> create(const Recipe& recipe) {
    Matcher out;
    out.recipe_ = &recipe;
    for (const Override& item : recipe.overrides) AUTOGLM_RETURN_IF_ERROR(add(out.overrides_, item.pattern));
    for (const std::string& pattern : recipe.ignore) AUTOGLM_RETURN_IF_ERROR(add(out.ignore_, pattern));
    return out;
  }

  bool ignores(const Decision& decision) {
    return std::any_of(ignore_.begin(), ignore_.end(), [&](Pattern& p) { return matches(p, decision); });
  }

  /// The first override that matches; nullptr for none.
  const Override* find(const Decision& decision) {
    for (size_t i = 0; i < overrides_.size(); ++i) {
      if (matches(overrides_[i], decision)) return &recipe_->overrides[i];
    }
    return nullptr;
  }

  /// After all modules were asked about.
  Status check() const {
    AUTOGLM_RETURN_IF_ERROR(status_);
    for (const auto* patterns : {&overrides_, &ignore_}) {
      for (const Pattern& pattern : *patterns) {
        if (pattern.used) continue;
        return invalid_argument(
            fmt::format("pattern {} matches no module of this model; `autoglm inspect MODEL --tensors` lists the names",
                        format::display(pattern.text)));
      }
    }
    return ok_status();
  }

 private:
  struct Pattern {
    std::string text;
    format::Regex regex;
    bool used = false;
  };

  static Status add(std::vector<Pattern>& patterns, const std::string& text) {
    AUTOGLM_ASSIGN_OR_RETURN(format::Regex regex, format::Regex::compile(text));
    patterns.push_back({text, std::move(regex), false});
    return ok_status();
  }

  /// By the name that is written or the one that was read.
  bool matches(Pattern& pattern, const Decision& decision) {
    for (const std::string* name : {&decision.module.name, &decision.source.name}) {
      const auto result = pattern.regex.search(*name);
      if (result == format::Regex::Match::kGivesUp && status_.ok()) {
        status_ = invalid_argument(fmt::format("pattern {} takes too long to match {}; write a simpler one",
                                               format::display(pattern.text), format::display(*name)));
      }
      if (result != format::Regex::Match::kYes) continue;
      pattern.used = true;
      return true;
    }
    return false;
  }

  const Recipe* recipe_ = nullptr;
  std::vector<Pattern> overrides_, ignore_;
  Status status_;
};

format::DType scale_dtype_of(format::DType source) {
  return source == format::DType::kF64 ? format::DType::kF32 : source;
}

/// `cols`: of this module, or what all experts have in common.
Status fit_group_size(Decision& decision, int64_t cols, std::set<std::string>& notes) {
  const int64_t wanted = decision.scheme->weights.group_size;
  const Status status = decision.scheme->fit_group_size(cols);
  if (!status.ok()) return status.with_context(decision.module.name);
  const int64_t size = decision.scheme->weights.group_size;
  if (size != wanted) {
    notes.insert(fmt::format("{} with {} input columns: group size {} instead of {}, which does not divide",
                             is_expert(decision.module) ? "experts" : "modules", cols, size, wanted));
  }
  return ok_status();
}

/// transformers (5.x) unpacks routed experts without zero points and takes one scheme for those of all layers.
Status adapt_expert(Decision& decision, bool explicit_choice, std::set<std::string>& notes) {
  Scheme& scheme = *decision.scheme;
  if (scheme.cast || (!scheme.activations && scheme.weights.symmetric)) return ok_status();
  if (explicit_choice) {
    return invalid_argument(
        fmt::format("{}: routed experts load in other software only as symmetric weight-only "
                    "integers; use int{}",
                    decision.module.name, scheme.weights.num_bits));
  }
  const std::string wanted = scheme.to_string();
  scheme.activations.reset();
  scheme.weights.symmetric = true;
  notes.insert(
      fmt::format("routed experts: {} instead of {}, because other software loads experts only as symmetric "
                  "weight-only integers",
                  scheme.to_string(), wanted));
  return ok_status();
}

std::string format_name(const std::optional<Scheme>& scheme) { return scheme ? scheme->to_string() : "keep"; }

/// What the loaders fuse or read together must be stored in one way: q, k and v; gate and up; all routed experts.
Status check_shared(const std::vector<Decision>& decisions) {
  std::map<std::tuple<int64_t, int, int64_t>, const Decision*> first;  // layer, stage, expert
  const Decision* first_expert = nullptr;
  for (const Decision& decision : decisions) {
    const ModuleSpec& module = decision.module;
    if (is_expert(module)) {
      if (first_expert == nullptr) first_expert = &decision;
      if (!(decision.scheme == first_expert->scheme)) {
        return invalid_argument(fmt::format("{} is {} but {} is {}: all routed experts must have one format",
                                            first_expert->module.name, format_name(first_expert->scheme), module.name,
                                            format_name(decision.scheme)));
      }
    }
    const auto stage = format::stage_of(module.role);
    if (!stage || (*stage != format::Stage::kQkv && *stage != format::Stage::kGateUp)) continue;
    const bool shared_expert = module.role == Role::kSharedGate || module.role == Role::kSharedUp;
    const auto [place, inserted] =
        first.try_emplace({module.layer, static_cast<int>(*stage), shared_expert ? -2 : module.expert}, &decision);
    if (inserted || decision.scheme == place->second->scheme) continue;
    return invalid_argument(fmt::format("{} is {} but {} is {}: they share an input and must have one format",
                                        place->second->module.name, format_name(place->second->scheme), module.name,
                                        format_name(decision.scheme)));
  }
  return ok_status();
}

/// Everything that decides one module, before it is checked against the others.
class Resolver {
 public:
  Resolver(const Recipe& recipe, const std::string& method, const Registry& registry, bool calibrated, Matcher& matcher,
           const std::vector<ModuleSpec>& modules)
      : recipe_(recipe), method_(method), registry_(registry), calibrated_(calibrated), matcher_(matcher) {
    for (const ModuleSpec& module : modules) {
      if (is_expert(module)) expert_cols_ = std::gcd(expert_cols_, module.shape[1]);
    }
  }

  Status decide(Decision& decision) {
    const ModuleSpec& module = decision.module;
    const bool ignored = matcher_.ignores(decision);
    const Override* item = matcher_.find(decision);
    if (!can_be_quantized(module.role)) {
      // Norms follow the float type of the whole model; the router's correction stays as precise as it is.
      if (recipe_.scheme.cast && module.role != Role::kRouterCorrection && !ignored) {
        decision.scheme = recipe_.scheme;
        decision.method = "rtn";
      }
      return ok_status();
    }
    if (ignored) return ok_status();
    decision.scheme = item != nullptr ? item->scheme : scheme_by_role(module.role);
    if (!decision.scheme) return ok_status();
    if (is_expert(module)) AUTOGLM_RETURN_IF_ERROR(adapt_expert(decision, item != nullptr, notes_));
    if (module.role == Role::kEmbedding && decision.scheme->activations) {
      return invalid_argument(fmt::format("{}: an embedding has no input to quantize; use int8", module.name));
    }
    const int64_t cols = is_expert(module) ? expert_cols_ : module.shape[1];  // experts share one format
    AUTOGLM_RETURN_IF_ERROR(fit_group_size(decision, cols, notes_));
    return choose_method(decision, item);
  }

  std::vector<std::string> notes() const { return {notes_.begin(), notes_.end()}; }

 private:
  std::optional<Scheme> scheme_by_role(Role role) const {
    // A float type is meant for the whole model.
    const std::optional<Scheme> whole = recipe_.scheme.cast ? std::optional(recipe_.scheme) : std::nullopt;
    if (role == Role::kEmbedding) return recipe_.embedding ? recipe_.embedding : whole;
    if (role == Role::kHead) return recipe_.head ? recipe_.head : whole;
    return recipe_.scheme;
  }

  Status choose_method(Decision& decision, const Override* item) {
    const std::string wanted = item != nullptr && !item->method.empty() ? item->method : method_;
    const bool usual = wanted.empty();
    decision.method = usual ? (calibrated_ && registry_.knows("gptq") ? "gptq" : "rtn") : wanted;
    const auto options = recipe_.methods.find(decision.method);
    AUTOGLM_ASSIGN_OR_RETURN(
        const std::unique_ptr<Pass> pass,
        registry_.make(decision.method, options == recipe_.methods.end() ? nlohmann::json() : *options));
    const bool float_type = decision.scheme->cast.has_value();
    if (decision.scheme->calibrates_input() && !calibrated_) {
      return invalid_argument("w8a8-static needs calibration text; give some, or use w8a8");
    }
    if (!float_type && pass->needs().any() && !calibrated_) {
      return invalid_argument(
          fmt::format("method '{}' needs calibration text; give some, or use rtn", decision.method));
    }
    // An embedding is a table: it has no input whose statistics a method could use. Float types need none.
    if (float_type || decision.module.role == Role::kEmbedding) decision.method = "rtn";
    return ok_status();
  }

  const Recipe& recipe_;
  const std::string& method_;  // the recipe's, "" for the usual one
  const Registry& registry_;
  bool calibrated_;
  Matcher& matcher_;
  int64_t expert_cols_ = 0;  // greatest common divisor of the experts' input columns
  std::set<std::string> notes_;
};

Status check_methods(const Recipe& recipe, const Registry& registry) {
  for (const auto& [name, options] : recipe.methods.items()) {
    AUTOGLM_RETURN_IF_ERROR(registry.check(name, options));
  }
  for (const Override& item : recipe.overrides) {
    if (!item.method.empty() && !registry.knows(item.method)) {
      return invalid_argument(unknown_word("method", item.method, registry.names()));
    }
  }
  return ok_status();
}

/// Formats that were chosen within a budget may leave every block as it is: then there is nothing to prepare.
Status choose_smoother(const std::string& smoother, const Recipe& recipe, bool calibrated, Resolved& out) {
  if (smoother.empty()) return ok_status();
  const bool rounds = std::any_of(out.decisions.begin(), out.decisions.end(), [](const Decision& decision) {
    return decision.module.layer >= 0 && decision.is_quantized();
  });
  if (!rounds) {
    const std::string why = fmt::format("method '{}' prepares weights for integers, but no block gets any", smoother);
    if (recipe.scheme.cast) return invalid_argument(why + "; leave it out");
    out.notes.push_back(why);
    return ok_status();
  }
  if (!calibrated) {
    return invalid_argument(fmt::format("method '{}' needs calibration text; give some, or use rtn", smoother));
  }
  out.smoother = smoother;
  return ok_status();
}

/// What the recipe wants of a module that one of its own options (`usual`) is about.
std::optional<Scheme> wanted(Matcher& matcher, const ModuleSpec& module, const std::optional<Scheme>& usual) {
  Decision decision;
  decision.module = decision.source = module;
  const Override* item = matcher.find(decision);
  if (matcher.ignores(decision)) return std::nullopt;
  return item != nullptr ? item->scheme : usual;
}

/// Tied embeddings that are quantized, or a head that is to differ, become two tensors: loaders tie float weights
/// alone.
bool must_untie(Matcher& matcher, const Recipe& recipe, const ModuleSpec& embedding, const ModuleSpec& head) {
  const auto whole = recipe.scheme.cast ? std::optional(recipe.scheme) : std::nullopt;
  const auto table = wanted(matcher, embedding, recipe.embedding ? recipe.embedding : whole);
  const auto own = wanted(matcher, head, recipe.head ? recipe.head : whole);
  return (table && !table->cast) || (own && !(own == table));
}

}  // namespace

std::pair<ModuleSpec, int64_t> source_of(const ModuleSpec& module, const ModelConfig& config,
                                         const TensorLayout& layout) {
  if (const ModuleSpec* same = layout.find(module.role, module.layer, module.expert)) return {*same, 0};
  if (module.role == Role::kHead) return {*layout.find(Role::kEmbedding), 0};  // tied before
  const int64_t q = config.num_attention_heads * config.head_dim, kv = config.num_key_value_heads * config.head_dim;
  const int64_t first = module.role == Role::kQ ? 0 : module.role == Role::kK ? q : q + kv;
  return {*layout.find(Role::kQkv, module.layer), first};
}

Result<Resolved> resolve(const Recipe& recipe, const ModelConfig& config, const TensorLayout& layout,
                         const format::Checkpoint* checkpoint, const Registry& registry, bool calibrated) {
  if (config.raw.contains("quantization_config") && !config.raw["quantization_config"].is_null()) {
    return bad_input("this model is quantized already; start from the float checkpoint it was made from");
  }
  AUTOGLM_RETURN_IF_ERROR(check_methods(recipe, registry));
  if (recipe.repair > 0 && !calibrated) {
    return invalid_argument("--repair looks at outputs and needs calibration text: give --calibration-dataset");
  }
  AUTOGLM_ASSIGN_OR_RETURN(const MethodWord method, registry.parse(recipe.method));
  Resolved out;
  out.config = config.as_transformers();
  out.layout = config.family == format::Family::kChatGlm ? TensorLayout::describe(out.config) : layout;
  std::vector<ModuleSpec> modules = out.layout.modules();
  AUTOGLM_ASSIGN_OR_RETURN(Matcher matcher, Matcher::create(recipe));
  if (config.tie_word_embeddings) {
    ModelConfig apart = out.config;
    apart.tie_word_embeddings = false;
    const TensorLayout untied = TensorLayout::describe(apart);
    if (must_untie(matcher, recipe, *layout.find(Role::kEmbedding), *untied.find(Role::kHead))) {
      out.config = std::move(apart);
      modules.push_back(*untied.find(Role::kHead));
      out.notes.push_back(
          "the head is stored apart from the embedding (tie_word_embeddings: false), because only floats of one type "
          "can be tied");
    }
  }
  Resolver resolver(recipe, method.pass, registry, calibrated, matcher, modules);
  for (const ModuleSpec& module : modules) {
    Decision decision;
    decision.module = module;
    std::tie(decision.source, decision.first_row) = source_of(module, config, layout);
    const format::TensorInfo* stored =
        checkpoint != nullptr ? checkpoint->find(decision.source.weight_name()) : nullptr;
    decision.source_dtype = stored != nullptr ? stored->dtype : config.dtype;
    decision.scale_dtype = scale_dtype_of(decision.source_dtype);
    AUTOGLM_RETURN_IF_ERROR(resolver.decide(decision));
    out.decisions.push_back(std::move(decision));
  }
  AUTOGLM_RETURN_IF_ERROR(matcher.check());
  AUTOGLM_RETURN_IF_ERROR(check_shared(out.decisions));
  AUTOGLM_RETURN_IF_ERROR(choose_smoother(method.smoother, recipe, calibrated, out));
  for (std::string& note : resolver.notes()) out.notes.push_back(std::move(note));
  if (checkpoint != nullptr) {
    for (std::string& name : layout.others(*checkpoint)) {
      const bool buffer = config.family == format::Family::kChatGlm && name.ends_with("rotary_pos_emb.inv_freq");
      (buffer ? out.dropped : out.others).push_back(std::move(name));
    }
  }
  if (recipe.embedding && !recipe.embedding->cast) {
    out.notes.push_back(
        "transformers loads a quantized embedding only with CompressedTensorsConfig(dequantize=True), and only where "
        "every module has the same scheme (docs/FORMATS.md)");
  }
  if (recipe.scheme.cast) out.config.dtype = *recipe.scheme.cast;
  out.quantization = describe_quantization(out.decisions, out.others);
  return out;
}

std::string Resolved::config_json() const {
  return config.to_json(quantization ? quantization->to_json() : nlohmann::ordered_json());
}

bool Resolved::data_free(const Registry& registry, const Recipe& recipe) const {
  if (!smoother.empty() || recipe.repair > 0) return false;
  std::set<std::string> methods;
  for (const Decision& decision : decisions) {
    if (!decision.is_quantized()) continue;
    if (decision.scheme->calibrates_input()) return false;
    methods.insert(decision.method);
  }
  return std::none_of(methods.begin(), methods.end(), [&](const std::string& method) {
    const auto options = recipe.methods.find(method);
    const auto pass = registry.make(method, options == recipe.methods.end() ? nlohmann::json() : *options);
    return pass.ok() && (*pass)->needs().any();
  });
}

}  // namespace autoglm::pass
