#include "compress/search/allocation.h"

#include <algorithm>

#include "compress/search/knapsack.h"

namespace autoglm::search {
namespace {

/// Matches the group's modules and no others. Experts are too many to be named one by one.
std::string pattern_of(const Group& group) {
  const std::string experts = ".mlp.experts.";
  if (group.modules.front().find(experts) != std::string::npos) return quoted(experts) + "[0-9]";
  std::string pattern = "^(";
  for (const std::string& name : group.modules) pattern += (pattern.size() > 2 ? "|" : "") + quoted(name);
  return pattern + ")$";
}

/// What a profile leaves of every group, and where it stands among all candidates.
struct Allowed {
  Groups groups;
  std::vector<std::vector<size_t>> places;
};

Allowed allowed_by(const Sensitivity& sensitivity, Profile profile) {
  Allowed out;
  for (const Group& group : sensitivity.groups) {
    out.groups.emplace_back();
    out.places.emplace_back();
    for (size_t i = 0; i < group.candidates.size(); ++i) {
      const Candidate& candidate = group.candidates[i];
      if (!allows(profile, group, candidate.scheme)) continue;
      out.groups.back().push_back({candidate.bytes, candidate.loss});
      out.places.back().push_back(i);
    }
  }
  return out;
}

}  // namespace

bool allows(Profile profile, const Group& group, const std::string& word) {
  if (word == "keep" || profile == Profile::kAny) return true;
  if (group.kind == "embedding") return false;
  if (profile == Profile::kTransformers) return true;
  const auto scheme = pass::Scheme::parse(word);
  return group.kind != "head" && scheme.ok() && (scheme->weights.num_bits == 4 || scheme->weights.num_bits == 8);
}

std::string quoted(const std::string& name) {
  std::string out;
  for (const char c : name) {
    if (c == '.') out += '\\';
    out += c;
  }
  return out;
}

Result<Allocation> allocate(const Sensitivity& sensitivity, int64_t bytes, Profile profile) {
  const Allowed allowed = allowed_by(sensitivity, profile);
  AUTOGLM_ASSIGN_OR_RETURN(const std::vector<size_t> chosen,
                           solve_knapsack(allowed.groups, bytes - sensitivity.other_bytes));
  Allocation out;
  out.bytes = sensitivity.other_bytes;
  for (size_t i = 0; i < chosen.size(); ++i) {
    out.choices.push_back(allowed.places[i][chosen[i]]);
    out.bytes += allowed.groups[i][chosen[i]].bytes;
    out.loss += allowed.groups[i][chosen[i]].loss;
  }
  return out;
}

std::vector<Point> size_loss_curve(const Sensitivity& sensitivity, Profile profile, size_t points) {
  const std::vector<Point> all = convex_frontier(allowed_by(sensitivity, profile).groups);
  std::vector<Point> out;
  const size_t count = std::min(points, all.size());
  for (size_t i = 0; i < count; ++i) {
    out.push_back(all[count < 2 ? 0 : i * (all.size() - 1) / (count - 1)]);
    out.back().bytes += sensitivity.other_bytes;
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
