/// config.json's words for a set of decisions: describe_quantization of resolve.h.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "compress/pass/resolve.h"

namespace autoglm::pass {
namespace {

using format::QuantConfig;
using format::QuantScheme;

struct Group {
  QuantScheme scheme;
  bool experts = false;
  std::vector<const Decision*> linears, embeddings;
};

/// Decisions by stored scheme, in order of first use; routed experts apart.
std::vector<Group> group_by_scheme(const std::vector<Decision>& decisions) {
  std::vector<Group> groups;
  for (const Decision& decision : decisions) {
    if (!decision.scheme || decision.scheme->cast) continue;
    const QuantScheme scheme = decision.scheme->stored();
    const bool expert = decision.module.expert >= 0;
    auto found = std::find_if(groups.begin(), groups.end(),
                              [&](const Group& g) { return g.scheme == scheme && g.experts == expert; });
    if (found == groups.end()) found = groups.insert(groups.end(), {scheme, expert, {}, {}});
    (decision.module.role == format::Role::kEmbedding ? found->embeddings : found->linears).push_back(&decision);
  }
  return groups;
}

/// Regexes for tensors that are no modules of the decoder but may be linear layers of a loaded model: the vision tower
/// by the folder it is in, MTP layers by their number.
std::vector<std::string> ignore_others(const std::vector<std::string>& others) {
  std::set<std::string> patterns;
  for (const std::string& name : others) {
    if (!name.ends_with(".weight")) continue;
    if (name.find("visual.") != std::string::npos) {
      patterns.insert("re:.*visual\\..*");
    } else if (const size_t at = name.find("layers."); at != std::string::npos) {
      const size_t digits = at + 7;
      const size_t end = name.find('.', digits);
      patterns.insert(fmt::format("re:.*layers\\.{}\\..*", name.substr(digits, end - digits)));
    } else {
      patterns.insert(name.substr(0, name.size() - 7));
    }
  }
  return {patterns.begin(), patterns.end()};
}

}  // namespace

std::optional<QuantConfig> describe_quantization(const std::vector<Decision>& decisions,
                                                 const std::vector<std::string>& others) {
  std::vector<Group> groups = group_by_scheme(decisions);
  if (groups.empty()) return std::nullopt;

  // The scheme of most linears becomes the class target; experts of the same scheme are covered by it.
  const auto most = std::max_element(groups.begin(), groups.end(), [](const Group& a, const Group& b) {
    return (a.experts ? 0 : a.linears.size() + 1) < (b.experts ? 0 : b.linears.size() + 1);
  });
  const QuantScheme main = most->scheme;
  const bool single = std::all_of(groups.begin(), groups.end(), [&](const Group& g) { return g.scheme == main; });

  QuantConfig config;
  config.format = single ? main.format : std::string(format::kMixedPrecision);
  const auto add = [&](QuantScheme scheme, std::vector<std::string> targets) {
    scheme.targets = std::move(targets);
    if (single) scheme.format.clear();
    config.config_groups.emplace_back(fmt::format("group_{}", config.config_groups.size()), std::move(scheme));
  };
  for (const Group& group : groups) {
    std::vector<std::string> targets;
    if (group.experts) {
      if (single) continue;
      targets.push_back("re:.*mlp\\.experts\\.\\d+\\..*");
    } else if (&group == &*most) {
      if (!group.linears.empty()) targets.push_back("Linear");
    } else {
      for (const Decision* decision : group.linears) targets.push_back(decision->module.name);
    }
    for (const Decision* decision : group.embeddings) {
      targets.push_back(decision->module.role == format::Role::kEmbedding ? "Embedding" : decision->module.name);
    }
    add(group.scheme, std::move(targets));
  }
  if (single && std::all_of(groups.begin(), groups.end(), [](const Group& g) { return g.experts; })) {
    add(main, {"Linear"});
  }

  for (const Decision& decision : decisions) {
    const format::Role role = decision.module.role;
    const bool in_float = !decision.scheme || decision.scheme->cast;
    // The router is a linear layer in some engines.
    if (in_float && (format::is_linear(role) || role == format::Role::kRouter))
      config.ignore.push_back(decision.module.name);
  }
  // A tied head is a Linear too, though no tensor of the checkpoint.
  const bool has_head = std::any_of(decisions.begin(), decisions.end(),
                                    [](const Decision& d) { return d.module.role == format::Role::kHead; });
  if (!has_head) config.ignore.push_back("lm_head");
  for (std::string& pattern : ignore_others(others)) config.ignore.push_back(std::move(pattern));
  return config;
}

}  // namespace autoglm::pass
