#pragma once
/// Allocation: one format for every group under a bound on stored bytes, with the least estimated loss.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "compress/pass/recipe.h"
#include "compress/search/knapsack.h"
#include "compress/search/profile.h"
#include "compress/search/sensitivity.h"
#include "core/base/status.h"

namespace autoglm::search {

struct Allocation {
  std::vector<size_t> choices;  ///< index of the candidate of every group
  int64_t bytes = 0;            ///< of all tensors, those outside the groups included
  double loss = 0;              ///< estimated, nats per token
};

/// The least loss in at most `bytes` (exact: knapsack.h). kInvalidArgument: less than the smallest possible; the
/// message has both numbers.
Result<Allocation> allocate(const Sensitivity& sensitivity, int64_t bytes, Profile profile);

/// Whether artifacts for `profile` may store `group` by this scheme word ("keep": as it is).
bool allows(Profile profile, const Group& group, const std::string& word);

/// The bytes of the smallest and of the largest allocation.
struct SizeRange {
  int64_t smallest = 0, largest = 0;
};
SizeRange size_range(const Sensitivity& sensitivity, Profile profile);

/// Sizes and the least estimated loss for each, from the smallest to the least loss, at most `points` of the lower
/// convex hull.
std::vector<Point> size_loss_curve(const Sensitivity& sensitivity, Profile profile, size_t points = 40);

/// The smallest bytes whose allocation has an estimated loss of at most `loss`, to a thousandth.
int64_t size_for(const Sensitivity& sensitivity, Profile profile, double loss);

/// A module's name as a regex.
std::string quoted(const std::string& name);

/// `recipe` with an override for every group, after its own: what they match stays theirs.
pass::Recipe with_allocation(pass::Recipe recipe, const Sensitivity& sensitivity, const Allocation& allocation);

}  // namespace autoglm::search
