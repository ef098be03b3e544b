#include "api/settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <set>
#include <utility>

#include "compress/search/profile.h"
#include "core/base/memory.h"
#include "core/base/share.h"
#include "core/base/suggest.h"
#include "core/format/checkpoint_writer.h"

namespace autoglm::api {
namespace {

using nlohmann::json;

constexpr int64_t kMaxRecipeBytes = 1 << 20;
constexpr int64_t kMaxSwaps = 1000, kMaxSamples = 1 << 20, kMaxLength = 1 << 20;
constexpr int64_t kMinShard = 1 << 20;

// One member of a recipe file that is no part of pass::Recipe: its name and how it is read.
struct Member {
  std::string name;
  std::function<Status(const json&, Settings&)> read;
};

Status wrong(const std::string& expected) { return invalid_argument("must be " + expected); }

std::function<Status(const json&, Settings&)> text(std::string Settings::*member) {
  return [member](const json& value, Settings& settings) {
    if (!value.is_string()) return wrong("a text");
    settings.*member = value.get<std::string>();
    return ok_status();
  };
}

std::function<Status(const json&, Settings&)> bytes(int64_t Settings::*member) {
  return [member](const json& value, Settings& settings) -> Status {
    if (value.is_number_integer() && value >= 0) {
      settings.*member = value.get<int64_t>();
      return ok_status();
    }
    if (!value.is_string()) return wrong("a size such as 4G");
    AUTOGLM_ASSIGN_OR_RETURN(settings.*member, parse_bytes(value.get<std::string>()));
    return ok_status();
  };
}

template <typename T>
std::function<Status(const json&, Settings&)> whole(T Settings::*member) {
  return [member](const json& value, Settings& settings) {
    if (!value.is_number_integer() || value < 0 || value > INT32_MAX) return wrong("a whole number");
    settings.*member = value.get<T>();
    return ok_status();
  };
}

std::function<Status(const json&, Settings&)> number(double Settings::*member) {
  return [member](const json& value, Settings& settings) {
    if (!value.is_number() || !(value.get<double>() > 0)) return wrong("a number above 0");
    settings.*member = value.get<double>();
    return ok_status();
  };
}

Status read_share(const json& value, Settings& settings) {
  if (!value.is_string() && !value.is_number()) return wrong("a share such as 3%");
  AUTOGLM_ASSIGN_OR_RETURN(settings.max_loss, parse_share(value.is_string() ? value.get<std::string>() : value.dump()));
  return ok_status();
}

const std::vector<Member>& members() {
  static const std::vector<Member> list = {
      {"target_bits", number(&Settings::target_bits)},
      {"target_size", bytes(&Settings::target_size)},
      {"ratio", number(&Settings::ratio)},
      {"profile", text(&Settings::profile)},
      {"scores", text(&Settings::scores)},
      {"swaps", whole(&Settings::swaps)},
      {"calibration", text(&Settings::calibration)},
      {"calibration_samples", whole(&Settings::calibration_samples)},
      {"calibration_length", whole(&Settings::calibration_length)},
      {"verify", text(&Settings::verify)},
      {"evaluation", text(&Settings::evaluation)},
      {"max_loss", read_share},
      {"max_kl", number(&Settings::max_kl)},
      {"max_ram", bytes(&Settings::max_ram)},
      {"max_shard", bytes(&Settings::max_shard)},
      {"threads", whole(&Settings::threads)},
      {"seed", whole(&Settings::seed)},
      {"device", text(&Settings::device)},
      {"compute", text(&Settings::compute)},
  };
  return list;
}

Status one_of(std::string_view option, const std::string& word, const std::vector<std::string>& known) {
  if (std::find(known.begin(), known.end(), word) != known.end()) return ok_status();
  return invalid_argument(unknown_word(fmt::format("value of {}", option), word, known));
}

// Budgets say what is wanted in place of a scheme.
Status check_budget(const Settings& s) {
  if (s.target_bits < 0 || s.target_size < 0 || s.ratio < 0) return invalid_argument("a budget must be above 0");
  const int budgets = (s.target_bits > 0 ? 1 : 0) + (s.target_size > 0 ? 1 : 0) + (s.ratio > 0 ? 1 : 0);
  if (budgets > 1) return invalid_argument("--target-bits, --target-size and --ratio contradict one another; give one");
  const bool contract = s.max_loss >= 0 || s.max_kl > 0;
  if (s.automatic && budgets == 0 && !contract) {
    return invalid_argument(
        "quantization 'auto' needs a budget or a contract: --target-bits 3.5, --target-size 3MB, --ratio 12, "
        "--max-loss 1% or --max-kl 0.02");
  }
  if (!s.automatic && budgets > 0) {
    return invalid_argument("a budget chooses the formats itself; it contradicts --quantization (leave it out)");
  }
  if (!s.automatic && (!s.profile.empty() || !s.scores.empty() || (s.swaps_given && s.swaps > 0))) {
    return invalid_argument(
        "--profile, --scores and --swaps mean something beside a budget alone, such as --target-bits 3.5");
  }
  if (s.target_bits > 32) return invalid_argument(fmt::format("--target-bits is {}; give 2 to 32", s.target_bits));
  if (s.ratio > 0 && s.ratio < 1) return invalid_argument(fmt::format("--ratio is {}; give 1 to 16", s.ratio));
  return s.profile.empty() ? ok_status() : search::profile_of(s.profile).status();
}

Status check(const Settings& s) {
  AUTOGLM_RETURN_IF_ERROR(check_budget(s));
  AUTOGLM_RETURN_IF_ERROR(one_of("--verify", s.verify, {"none", "fast", "full"}));
  AUTOGLM_RETURN_IF_ERROR(one_of("--compute", s.compute, {"fp32", "bf16", "fp16"}));
  const auto in_range = [](std::string_view option, int64_t value, int64_t low, int64_t high) {
    if (value >= low && value <= high) return ok_status();
    return invalid_argument(fmt::format("{} is {}; give {} to {}", option, value, low, high));
  };
  if (s.recipe.repair >= 1) return invalid_argument("--repair is a share of a matrix's outputs; give less than 100 %");
  if (s.recipe.repair > 0 && s.automatic) {
    return invalid_argument("--repair gives bits beyond a budget; it contradicts one, and -q auto");
  }
  AUTOGLM_RETURN_IF_ERROR(in_range("--swaps", s.swaps, 0, kMaxSwaps));
  AUTOGLM_RETURN_IF_ERROR(in_range("--reconstruct", s.recipe.reconstruct, 0, pass::kMaxSteps));
  AUTOGLM_RETURN_IF_ERROR(in_range("--refine", s.recipe.refine, 0, pass::kMaxEpochs));
  AUTOGLM_RETURN_IF_ERROR(in_range("--calibration-samples", s.calibration_samples, 1, kMaxSamples));
  AUTOGLM_RETURN_IF_ERROR(in_range("--calibration-length", s.calibration_length, 2, kMaxLength));
  if (s.max_shard < kMinShard) {
    return invalid_argument(fmt::format("--max-shard is {}; give at least {}", s.max_shard, format_bytes(kMinShard)));
  }
  AUTOGLM_RETURN_IF_ERROR(in_range("--threads", s.threads, 0, 1024));
  if (s.max_loss >= 0 && s.max_kl > 0) return invalid_argument("--max-loss and --max-kl are two contracts; give one");
  if ((s.max_loss >= 0 || s.max_kl > 0) && s.verify == "none") {
    return invalid_argument(
        fmt::format("--max-{} needs a measurement; it contradicts --verify none", s.max_kl > 0 ? "kl" : "loss"));
  }
  return ok_status();
}

// What an effort means, where the recipe does not say otherwise.
Result<Settings> with_effort(const std::string& effort) {
  AUTOGLM_RETURN_IF_ERROR(one_of("--effort", effort, {"fast", "balanced", "best"}));
  Settings settings;
  if (effort == "fast") return settings;
  settings.recipe.method = "gptaq";
  settings.recipe.reconstruct = effort == "best" ? 400 : 200;
  settings.recipe.refine = effort == "best" ? 4 : 1;
  settings.swaps = effort == "best" ? 2 : 0;
  return settings;
}

// What the caller says of the recipe beside its scheme.
Status take_recipe(const CompressOptions& options, Settings& s) {
  const auto scheme_of = [](std::string_view option, const std::string& word) -> Result<std::optional<pass::Scheme>> {
    auto scheme = pass::parse_scheme_or_keep(word);
    if (!scheme.ok()) return scheme.status().with_context(option);
    return scheme;
  };
  if (!options.method.empty()) s.recipe.method = options.method;
  if (!options.observer.empty()) {
    AUTOGLM_ASSIGN_OR_RETURN(s.recipe.observer, calibrate::parse_observer(options.observer));
  }
  if (options.repair >= 0) s.recipe.repair = options.repair;
  if (options.reconstruct >= 0) s.recipe.reconstruct = options.reconstruct;
  if (options.refine >= 0) s.recipe.refine = options.refine;
  s.embedding_given = s.embedding_given || !options.embedding.empty();
  s.head_given = s.head_given || !options.head.empty();
  if (!options.embedding.empty()) {
    AUTOGLM_ASSIGN_OR_RETURN(s.recipe.embedding, scheme_of("--embedding", options.embedding));
  }
  if (!options.head.empty()) {
    AUTOGLM_ASSIGN_OR_RETURN(s.recipe.head, scheme_of("--head", options.head));
  }
  std::vector<pass::Override> overrides;
  for (const std::string& text : options.overrides) {
    auto parsed = pass::Recipe::parse_override(text);
    if (!parsed.ok()) return parsed.status().with_context("--override");
    overrides.push_back(std::move(parsed).value());
  }
  s.recipe.overrides.insert(s.recipe.overrides.begin(), overrides.begin(), overrides.end());
  for (const std::string& pattern : options.ignore) {
    if (const Status status = pass::check_pattern(pattern); !status.ok()) return status.with_context("--ignore");
  }
  s.recipe.ignore.insert(s.recipe.ignore.end(), options.ignore.begin(), options.ignore.end());
  return ok_status();
}

}  // namespace

Result<Settings> read_recipe(const json& file, const std::string& where, const std::string& effort) {
  if (file.is_null()) return with_effort(effort.empty() ? "fast" : effort);  // an empty file
  if (!file.is_object()) return invalid_argument(where + ": a recipe is a list of members such as 'scheme: int4'");
  json rest = file;
  std::string usual = "fast";
  if (const auto found = rest.find("effort"); found != rest.end()) {
    if (!found->is_string()) return invalid_argument(where + ": effort: must be fast, balanced or best");
    usual = found->get<std::string>();
    rest.erase(found);
  }
  auto from_effort = with_effort(effort.empty() ? usual : effort);
  if (!from_effort.ok()) return effort.empty() ? from_effort.status().with_context(where) : from_effort.status();
  Settings settings = std::move(from_effort).value();
  for (const Member& member : members()) {
    const auto found = rest.find(member.name);
    if (found == rest.end()) continue;
    if (const Status status = member.read(*found, settings); !status.ok()) {
      return status.with_context(fmt::format("{}: {}", where, member.name));
    }
    rest.erase(found);
  }
  // What is left is the recipe proper; unknown names are judged against both lists.
  std::vector<std::string> known = {"effort"};
  const nlohmann::ordered_json whole_recipe = pass::Recipe{}.to_json();
  for (const auto& [name, value] : whole_recipe.items()) known.push_back(name);
  const std::vector<std::string> recipe_members(known.begin() + 1, known.end());
  for (const Member& member : members()) known.push_back(member.name);
  for (const auto& [name, value] : rest.items()) {
    if (std::find(recipe_members.begin(), recipe_members.end(), name) == recipe_members.end()) {
      return invalid_argument(fmt::format("{}: {}", where, unknown_word("member", name, known)));
    }
  }
  settings.swaps_given = file.contains("swaps");
  settings.samples_given = file.contains("calibration_samples");
  settings.length_given = file.contains("calibration_length");
  settings.embedding_given = rest.contains("embedding");
  settings.head_given = rest.contains("head");
  if (const auto scheme = rest.find("scheme"); scheme != rest.end()) {
    settings.automatic = *scheme == "auto";
    settings.scheme_given = !settings.automatic;
    if (settings.automatic) rest.erase(scheme);
  }
  auto recipe = pass::Recipe::from_json(rest, settings.recipe);
  if (!recipe.ok()) return recipe.status().with_context(where);
  settings.recipe = std::move(recipe).value();
  return settings;
}

bool has_budget(const Settings& s) { return s.target_bits != 0 || s.target_size != 0 || s.ratio != 0; }

Result<Settings> settle(const CompressOptions& options) {
  AUTOGLM_ASSIGN_OR_RETURN(Settings s, with_effort(options.effort.empty() ? "fast" : options.effort));
  if (!options.config.empty()) {
    AUTOGLM_ASSIGN_OR_RETURN(const std::string text, format::read_text_file(options.config, kMaxRecipeBytes));
    AUTOGLM_ASSIGN_OR_RETURN(const json file, yaml_to_json(text, options.config));
    AUTOGLM_ASSIGN_OR_RETURN(s, read_recipe(file, options.config, options.effort));
  }
  // What the caller gives takes the place of the file's scheme or budget.
  if (!options.quantization.empty()) {
    s.automatic = options.quantization == "auto";
    s.scheme_given = !s.automatic;
    if (s.scheme_given) s.target_bits = s.ratio = static_cast<double>(s.target_size = 0);
  }
  if (options.target_bits != 0 || options.target_size != 0 || options.ratio != 0) {
    if (options.quantization.empty()) s.scheme_given = false;
    s.target_bits = options.target_bits;
    s.target_size = options.target_size;
    s.ratio = options.ratio;
  }
  if (!options.quantization.empty() && !s.automatic) {
    auto scheme = pass::Scheme::parse(options.quantization);
    if (!scheme.ok()) return scheme.status().with_context("--quantization");
    s.recipe.scheme = *scheme;
  }
  AUTOGLM_RETURN_IF_ERROR(take_recipe(options, s));

  const auto take = [](const auto& given, const auto& unset, auto& setting) {
    if (given != unset) setting = given;
  };
  s.automatic = s.automatic || (has_budget(s) && !s.scheme_given);
  take(options.profile, std::string(), s.profile);
  take(options.scores, std::string(), s.scores);
  s.swaps_given |= options.swaps >= 0;
  if (options.swaps >= 0) s.swaps = options.swaps;
  take(options.calibration, std::string(), s.calibration);
  s.samples_given |= options.calibration_samples != 0;
  s.length_given |= options.calibration_length != 0;
  take(options.calibration_samples, int64_t{0}, s.calibration_samples);
  take(options.calibration_length, int64_t{0}, s.calibration_length);
  take(options.verify, std::string(), s.verify);
  take(options.evaluation, std::string(), s.evaluation);
  take(options.max_loss, -1.0, s.max_loss);
  take(options.max_kl, 0.0, s.max_kl);
  take(options.max_ram, int64_t{0}, s.max_ram);
  take(options.max_shard, int64_t{0}, s.max_shard);
  take(options.threads, 0, s.threads);
  if (options.seed) s.seed = *options.seed;
  take(options.device, std::string(), s.device);
  take(options.compute, std::string(), s.compute);
  AUTOGLM_RETURN_IF_ERROR(check(s));
  return s;
}

}  // namespace autoglm::api
