#include "compress/search/groups.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "compress/pass/plan.h"
#include "core/format/regex.h"

namespace autoglm::search {
namespace {

using format::Role;
using pass::Decision;
using pass::Scheme;

bool is_expert(const Decision& decision) { return decision.module.expert >= 0; }

bool is_shared_expert(Role role) {
  return role == Role::kSharedGate || role == Role::kSharedUp || role == Role::kSharedDown;
}

/// A head that is the embedding while both are kept: one tensor then, two otherwise.
bool is_tied_head(const Decision& decision) {
  return decision.module.role == Role::kHead && decision.source.role == Role::kEmbedding;
}

/// What the loaders want in one format has one key; keys sort in the order of the model.
std::tuple<int64_t, int, bool> key_of(const Decision& decision) {
  constexpr int64_t kLast = INT64_MAX;
  if (is_expert(decision)) return {kLast, 0, true};
  if (decision.module.role == Role::kEmbedding || is_tied_head(decision)) return {-1, 0, false};
  if (decision.module.role == Role::kHead) return {kLast, 1, false};
  return {decision.module.layer, static_cast<int>(*format::stage_of(decision.module.role)),
          is_shared_expert(decision.module.role)};
}

/// "model.layers.0.mlp.gate_proj", "….up_proj" -> "model.layers.0.mlp.gate_proj+up_proj".
std::string name_of(const std::vector<const Decision*>& decisions) {
  if (is_expert(*decisions.front())) return "routed experts";
  std::string name = decisions.front()->module.name;
  for (size_t i = 1; i < decisions.size(); ++i) {
    const std::string& other = decisions[i]->module.name;
    name += "+" + other.substr(other.rfind('.') + 1);
  }
  return name;
}

const char* kind_of(const Decision& decision) {
  if (is_expert(decision)) return "experts";
  if (decision.module.role == Role::kEmbedding) return "embedding";
  return decision.module.role == Role::kHead ? "head" : "linear";
}

bool fits(const Scheme& scheme, const Decision& decision) {
  const format::QuantArgs& args = scheme.weights;
  if (is_expert(decision) && !args.symmetric) return false;  // what other software loads: resolve.cpp
  return args.strategy != format::Strategy::kGroup || decision.module.shape[1] % args.group_size == 0;
}

int64_t bytes_as(const Decision& decision, const std::optional<Scheme>& scheme, const format::Checkpoint& checkpoint) {
  Decision other = decision;
  other.scheme = scheme;
  return pass::written_bytes(other, &checkpoint);
}

/// Whether the recipe itself says what becomes of a module.
class Fixed {
 public:
  static Result<Fixed> create(const pass::Recipe& recipe) {
    Fixed out;
    out.recipe_ = &recipe;
    std::vector<std::string> texts = recipe.ignore;
    for (const pass::Override& item : recipe.overrides) texts.push_back(item.pattern);
    for (const std::string& text : texts) {
      AUTOGLM_ASSIGN_OR_RETURN(format::Regex regex, format::Regex::compile(text));
      out.patterns_.push_back(std::move(regex));
    }
    return out;
  }

  bool operator()(const Decision& decision) const {
    if (decision.module.role == Role::kEmbedding && recipe_->embedding) return true;
    if (decision.module.role == Role::kHead && recipe_->head) return true;
    return std::any_of(patterns_.begin(), patterns_.end(), [&](const format::Regex& pattern) {
      return pattern.search(decision.module.name) == format::Regex::Match::kYes ||
             pattern.search(decision.source.name) == format::Regex::Match::kYes;
    });
  }

 private:
  const pass::Recipe* recipe_ = nullptr;
  std::vector<format::Regex> patterns_;
};

/// `embedding_kept`: whether it is where nothing of the group is changed.
void add_candidates(GroupedDecisions& grouped, const std::vector<Scheme>& schemes, bool embedding_kept,
                    const format::Checkpoint& checkpoint) {
  const auto add = [&](const std::optional<Scheme>& scheme) {
    Candidate candidate{.scheme = scheme ? scheme->to_string() : "keep"};
    for (const Decision* decision : grouped.decisions) {
      const bool is_embedding = !scheme && embedding_kept && is_tied_head(*decision);
      if (!is_embedding) candidate.bytes += bytes_as(*decision, scheme, checkpoint);
    }
    grouped.group.candidates.push_back(std::move(candidate));
  };
  for (const Scheme& scheme : schemes) {
    const bool all = std::all_of(grouped.decisions.begin(), grouped.decisions.end(),
                                 [&](const Decision* decision) { return fits(scheme, *decision); });
    if (!all) continue;
    grouped.schemes.push_back(scheme);
    add(scheme);
  }
  add(std::nullopt);
}

}  // namespace

Result<std::vector<GroupedDecisions>> group_decisions(const pass::Recipe& recipe, const pass::Resolved& resolved,
                                                      const std::vector<Scheme>& schemes,
                                                      const format::Checkpoint& checkpoint) {
  AUTOGLM_ASSIGN_OR_RETURN(const Fixed is_fixed, Fixed::create(recipe));
  std::map<std::tuple<int64_t, int, bool>, GroupedDecisions> groups;
  for (const Decision& decision : resolved.decisions) {
    if (!decision.scheme || decision.scheme->cast) continue;
    if (!is_fixed(decision)) groups[key_of(decision)].decisions.push_back(&decision);
  }
  std::vector<GroupedDecisions> out;
  const Decision& embedding = resolved.decisions.front();
  for (auto& [key, grouped] : groups) {
    const bool has_embedding = grouped.decisions.front() == &embedding;
    grouped.group.name = name_of(grouped.decisions);
    grouped.group.kind = kind_of(*grouped.decisions.front());
    for (const Decision* decision : grouped.decisions) {
      grouped.group.modules.push_back(decision->module.name);
      const bool counted = is_tied_head(*decision) && has_embedding;
      grouped.group.parameters += counted ? 0 : format::element_count(decision->module.shape).value_or(0);
    }
    const bool embedding_kept = has_embedding || !embedding.scheme || embedding.scheme->cast;
    add_candidates(grouped, schemes, embedding_kept, checkpoint);
    out.push_back(std::move(grouped));
  }
  return out;
}

}  // namespace autoglm::search
