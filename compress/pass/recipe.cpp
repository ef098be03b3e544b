#include "compress/pass/recipe.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/base/share.h"
#include "core/base/suggest.h"
#include "core/format/regex.h"

namespace autoglm::pass {

Status check_pattern(std::string_view pattern) {
  if (pattern.empty()) return invalid_argument("a pattern must not be empty");
  return format::Regex::compile(pattern).status();
}

namespace {

using nlohmann::json;

std::string print(const std::optional<Scheme>& scheme) { return scheme ? scheme->to_string() : "keep"; }

Status check_members(const json& object, std::string_view where, const std::vector<std::string>& known) {
  if (!object.is_object()) return invalid_argument(fmt::format("{} must be an object", where));
  for (const auto& [name, value] : object.items()) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return invalid_argument(fmt::format("{}: {}", where, unknown_word("field", name, known)));
    }
  }
  return ok_status();
}

/// Reads member `name` if it is there; `where` is put before messages.
Status read_string(const json& object, std::string_view where, const char* name, std::string& out) {
  if (!object.contains(name)) return ok_status();
  if (!object[name].is_string()) return invalid_argument(fmt::format("{}: '{}' must be a string", where, name));
  out = object[name].get<std::string>();
  return ok_status();
}

Status read_scheme(const json& object, std::string_view where, const char* name, std::optional<Scheme>& out) {
  if (!object.contains(name)) return ok_status();
  std::string word;
  AUTOGLM_RETURN_IF_ERROR(read_string(object, where, name, word));
  auto scheme = parse_scheme_or_keep(word);
  if (!scheme.ok()) return scheme.status().with_context(fmt::format("{}: {}", where, name));
  out = *scheme;
  return ok_status();
}

Status read_count(const json& object, const char* name, int64_t most, int64_t& out) {
  if (!object.contains(name)) return ok_status();
  const json& given = object[name];
  if (!given.is_number_integer() || given < 0 || given > most) {
    return invalid_argument(fmt::format("recipe: '{}' must be a whole number from 0 to {}", name, most));
  }
  out = given.get<int64_t>();
  return ok_status();
}

Result<Override> read_override(const json& item, const std::string& where) {
  AUTOGLM_RETURN_IF_ERROR(check_members(item, where, {"match", "scheme", "method"}));
  if (!item.contains("match") || !item.contains("scheme")) {
    return invalid_argument(fmt::format("{} needs 'match' and 'scheme'", where));
  }
  Override out;
  AUTOGLM_RETURN_IF_ERROR(read_string(item, where, "match", out.pattern));
  AUTOGLM_RETURN_IF_ERROR(read_scheme(item, where, "scheme", out.scheme));
  AUTOGLM_RETURN_IF_ERROR(read_string(item, where, "method", out.method));
  if (const Status status = check_pattern(out.pattern); !status.ok()) return status.with_context(where);
  return out;
}

}  // namespace

Result<std::optional<Scheme>> parse_scheme_or_keep(std::string_view word) {
  if (word == "keep") return std::optional<Scheme>();
  AUTOGLM_ASSIGN_OR_RETURN(Scheme scheme, Scheme::parse(word));
  return std::optional<Scheme>(std::move(scheme));
}

Result<Override> Recipe::parse_override(std::string_view text) {
  const size_t equals = text.rfind('=');
  if (equals == std::string_view::npos) {
    return invalid_argument(fmt::format("override '{}': use PATTERN=SCHEME, for example 'layers\\.0\\..*=int8'", text));
  }
  Override out;
  out.pattern = text.substr(0, equals);
  std::string_view word = text.substr(equals + 1);
  if (const size_t colon = word.find(':'); colon != std::string_view::npos) {
    out.method = word.substr(colon + 1);
    word = word.substr(0, colon);
  }
  auto scheme = parse_scheme_or_keep(word);
  if (!scheme.ok()) return scheme.status().with_context(fmt::format("override '{}'", text));
  out.scheme = *scheme;
  if (const Status status = check_pattern(out.pattern); !status.ok()) {
    return status.with_context(fmt::format("override '{}'", text));
  }
  return out;
}

Result<Recipe> Recipe::from_json(const json& object) { return from_json(object, Recipe()); }

Result<Recipe> Recipe::from_json(const json& object, Recipe recipe) {
  AUTOGLM_RETURN_IF_ERROR(check_members(object, "recipe",
                                        {"scheme", "method", "embedding", "head", "overrides", "ignore", "observer",
                                         "bias_correction", "repair", "reconstruct", "refine", "methods"}));
  std::optional<Scheme> scheme = recipe.scheme;
  AUTOGLM_RETURN_IF_ERROR(read_scheme(object, "recipe", "scheme", scheme));
  if (!scheme) return invalid_argument("recipe: scheme: 'keep' is for overrides, embedding and head");
  recipe.scheme = *scheme;
  AUTOGLM_RETURN_IF_ERROR(read_string(object, "recipe", "method", recipe.method));
  AUTOGLM_RETURN_IF_ERROR(read_scheme(object, "recipe", "embedding", recipe.embedding));
  AUTOGLM_RETURN_IF_ERROR(read_scheme(object, "recipe", "head", recipe.head));
  for (const char* name : {"overrides", "ignore"}) {
    if (object.contains(name) && !object[name].is_array()) {
      return invalid_argument(fmt::format("recipe: '{}' must be a list", name));
    }
  }
  if (object.contains("overrides")) {
    for (const json& item : object["overrides"]) {
      AUTOGLM_ASSIGN_OR_RETURN(Override read,
                               read_override(item, fmt::format("recipe: overrides[{}]", recipe.overrides.size())));
      recipe.overrides.push_back(std::move(read));
    }
  }
  if (object.contains("ignore")) {
    for (const json& item : object["ignore"]) {
      const std::string where = fmt::format("recipe: ignore[{}]", recipe.ignore.size());
      if (!item.is_string()) return invalid_argument(where + " must be a string");
      recipe.ignore.push_back(item.get<std::string>());
      if (const Status status = check_pattern(recipe.ignore.back()); !status.ok()) return status.with_context(where);
    }
  }
  if (object.contains("observer")) {
    std::string word;
    AUTOGLM_RETURN_IF_ERROR(read_string(object, "recipe", "observer", word));
    AUTOGLM_ASSIGN_OR_RETURN(recipe.observer, calibrate::parse_observer(word));
  }
  if (object.contains("bias_correction")) {
    if (!object["bias_correction"].is_boolean()) {
      return invalid_argument("recipe: 'bias_correction' must be true or false");
    }
    recipe.bias_correction = object["bias_correction"].get<bool>();
  }
  if (object.contains("repair")) {
    const json& value = object["repair"];
    const auto share = parse_share(value.is_string() ? value.get<std::string>() : value.dump());
    if (!share.ok() || *share >= 1) {
      return invalid_argument("recipe: 'repair' must be a share of a matrix's outputs below 100%, for example 5%");
    }
    recipe.repair = *share;
  }
  AUTOGLM_RETURN_IF_ERROR(read_count(object, "reconstruct", kMaxSteps, recipe.reconstruct));
  AUTOGLM_RETURN_IF_ERROR(read_count(object, "refine", kMaxEpochs, recipe.refine));
  if (object.contains("methods")) {
    if (!object["methods"].is_object()) return invalid_argument("recipe: 'methods' must be an object");
    recipe.methods = object["methods"];
  }
  return recipe;
}

nlohmann::ordered_json Recipe::to_json() const {
  nlohmann::ordered_json out;
  out["scheme"] = scheme.to_string();
  out["method"] = method;
  out["embedding"] = print(embedding);
  out["head"] = print(head);
  out["overrides"] = nlohmann::ordered_json::array();
  for (const Override& item : overrides) {
    out["overrides"].push_back({{"match", item.pattern}, {"scheme", print(item.scheme)}, {"method", item.method}});
  }
  out["ignore"] = ignore;
  out["observer"] = calibrate::to_string(observer);
  out["bias_correction"] = bias_correction;
  out["repair"] = repair;
  out["reconstruct"] = reconstruct;
  out["refine"] = refine;
  out["methods"] = methods;
  return out;
}

}  // namespace autoglm::pass
