#pragma once
/// Bit allocation as a multiple-choice knapsack, solved exactly.
///
/// Every group of tensors is stored in one of its formats; a format costs bytes and loss. Wanted is one choice per
/// group with the least sum of losses whose sum of bytes keeps a budget. The relaxed problem, which may mix two choices
/// of a group, is solved by walking down the convex hulls of the groups, the steepest edge first (Sinha and Zoltners,
/// "The multiple-choice knapsack problem", Operations Research 27, 1979). The optimum differs from it in few groups,
/// mostly those whose next edge is about as steep as where the walk ends: these go first (the core of Pisinger, "A
/// minimal algorithm for the multiple-choice knapsack problem", EJOR 83, 1995) into a dynamic program over undominated
/// pairs of bytes and loss (Nemhauser and Ullmann, "Discrete dynamic programming and capital allocation", Management
/// Science 15, 1969).
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/base/status.h"

namespace autoglm::search {

/// One format of one group.
struct Choice {
  int64_t bytes = 0;
  double loss = 0;
};
using Groups = std::vector<std::vector<Choice>>;

/// The index of the choice of every group: the least total loss within `budget` bytes; of equal losses the fewest
/// bytes; of equal choices of a group the lowest index. Whatever tie is left (the same totals by other choices) falls
/// the same way on every machine. Losses are added in fixed point, about as finely as a double resolves their sum or
/// finer. kInvalidArgument: an empty group; negative bytes; a loss that is negative or not finite; totals that
/// overflow; a budget below the smallest total. kResourceExhausted: more than `most_states` partial solutions (about 50
/// bytes each) would have to be kept. The problem is NP-hard: should most groups lose exactly the same per byte while
/// their sizes have nothing in common, it shows.
Result<std::vector<size_t>> solve_knapsack(const Groups& groups, int64_t budget, uint32_t most_states = 1u << 25);

/// The totals of one choice per group.
struct Point {
  int64_t bytes = 0;
  double loss = 0;
};

/// The lower convex hull of all totals, for drawing: from the smallest total to the least loss (in as few bytes as it
/// takes), one group's choice changed from point to point. No choice lies below the line through the points, so each of
/// them is the optimum for a budget of its bytes. Empty where solve_knapsack would refuse the groups.
std::vector<Point> convex_frontier(const Groups& groups);

}  // namespace autoglm::search
