#include "compress/search/allocation.h"

#include <algorithm>

#include "compress/search/knapsack.h"
#include "core/base/suggest.h"

namespace autoglm::search {
namespace {

std::string quoted(const std::string& name) {
  std::string out;
  for (const char c : name) {
    if (c == '.') out += '\\';
    out += c;
  }
  return out;
}

/// Matches the group's modules and no others. Experts are too many to be named one by one.
std::string pattern_of(const Group& group) {
  const std::string experts = ".mlp.experts.";
  if (group.modules.front().find(experts) != std::string::npos) return quoted(experts) + "[0-9]";
  std::string pattern = "^(";
  for (const std::string& name : group.modules) pattern += (pattern.size() > 2 ? "|" : "") + quoted(name);
  return pattern + ")$";
}

bool allows(Profile profile, const Group& group, const std::string& word) {
  if (word == "keep" || profile == Profile::kAny) return true;
  if (group.kind == "embedding") return false;
  if (profile == Profile::kTransformers) return true;
  return group.kind != "head" && (word.starts_with("int4-") || word.starts_with("int8-"));
}

}  // namespace

std::string_view to_string(Profile profile) {
  switch (profile) {
    case Profile::kAny: return "any";
    case Profile::kTransformers: return "transformers";
    case Profile::kVllm: return "vllm";
  }
  return "";
}

Result<Profile> profile_of(std::string_view word) {
  std::vector<std::string> known;
  for (const Profile profile : {Profile::kAny, Profile::kTransformers, Profile::kVllm}) {
    if (word == to_string(profile)) return profile;
    known.emplace_back(to_string(profile));
  }
  return invalid_argument(unknown_word("profile", word, known));
}

Result<Allocation> allocate(const Sensitivity& sensitivity, int64_t bytes, Profile profile) {
  Groups allowed;
  std::vector<std::vector<size_t>> places;  // of the allowed candidates among all
  for (const Group& group : sensitivity.groups) {
    allowed.emplace_back();
    places.emplace_back();
    for (size_t i = 0; i < group.candidates.size(); ++i) {
      const Candidate& candidate = group.candidates[i];
      if (!allows(profile, group, candidate.scheme)) continue;
      allowed.back().push_back({candidate.bytes, candidate.loss});
      places.back().push_back(i);
    }
  }
  AUTOGLM_ASSIGN_OR_RETURN(const std::vector<size_t> chosen, solve_knapsack(allowed, bytes - sensitivity.other_bytes));
  Allocation out;
  out.bytes = sensitivity.other_bytes;
  for (size_t i = 0; i < chosen.size(); ++i) {
    out.choices.push_back(places[i][chosen[i]]);
    out.bytes += allowed[i][chosen[i]].bytes;
    out.loss += allowed[i][chosen[i]].loss;
  }
  return out;
}

SizeRange size_range(const Sensitivity& sensitivity, Profile profile) {
  SizeRange range{sensitivity.other_bytes, sensitivity.other_bytes};
  for (const Group& group : sensitivity.groups) {
    int64_t least = INT64_MAX, most = 0;
    for (const Candidate& candidate : group.candidates) {
      if (!allows(profile, group, candidate.scheme)) continue;
      least = std::min(least, candidate.bytes);
      most = std::max(most, candidate.bytes);
    }
    range.smallest += least;
    range.largest += most;
  }
  return range;
}

int64_t size_for(const Sensitivity& sensitivity, Profile profile, double loss) {
  auto [low, high] = size_range(sensitivity, profile);
  while (high - low > high / 1000) {
    const int64_t middle = low + (high - low) / 2;
    const auto found = allocate(sensitivity, middle, profile);
    (found.ok() && found->loss <= loss ? high : low) = middle;
  }
  return high;
}

pass::Recipe with_allocation(pass::Recipe recipe, const Sensitivity& sensitivity, const Allocation& allocation) {
  for (size_t i = 0; i < sensitivity.groups.size(); ++i) {
    const Group& group = sensitivity.groups[i];
    const std::string& word = group.candidates[allocation.choices[i]].scheme;
    pass::Override item{.pattern = pattern_of(group)};
    if (word != "keep") item.scheme = pass::Scheme::parse(word).value();
    recipe.overrides.push_back(std::move(item));
  }
  return recipe;
}

}  // namespace autoglm::search
