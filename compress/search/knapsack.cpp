#include "compress/search/knapsack.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>

namespace autoglm::search {
namespace {

using Wide = __int128;  // holds a loss times a size

/// A choice that no other of its group equals or beats in both bytes and loss.
struct Option {
  int64_t bytes;
  double loss;
  size_t index;  // in the caller's group
};
using Options = std::vector<Option>;  // bytes rise, losses fall

struct Problem {
  std::vector<Options> groups;
  int64_t least_bytes = 0;
};

Options undominated(const std::vector<Choice>& choices) {
  Options sorted;
  for (size_t i = 0; i < choices.size(); ++i) sorted.push_back({choices[i].bytes, choices[i].loss, i});
  std::sort(sorted.begin(), sorted.end(), [](const Option& a, const Option& b) {
    return std::tie(a.bytes, a.loss, a.index) < std::tie(b.bytes, b.loss, b.index);
  });
  Options kept;
  for (const Option& option : sorted) {
    if (kept.empty() || option.loss < kept.back().loss) kept.push_back(option);
  }
  return kept;
}

Result<Problem> read_groups(const Groups& groups) {
  Problem problem;
  int64_t most_bytes = 0;
  double most_loss = 0;
  for (size_t g = 0; g < groups.size(); ++g) {
    if (groups[g].empty()) return invalid_argument(fmt::format("group {} has nothing to choose from", g));
    for (size_t i = 0; i < groups[g].size(); ++i) {
      const auto [bytes, loss] = groups[g][i];
      if (bytes < 0) return invalid_argument(fmt::format("group {}, choice {}: {} bytes are negative", g, i, bytes));
      if (!std::isfinite(loss) || loss < 0) {
        return invalid_argument(
            fmt::format("group {}, choice {}: the loss is {}; it must be finite and at least 0", g, i, loss));
      }
    }
    problem.groups.push_back(undominated(groups[g]));
    const Options& options = problem.groups.back();
    most_loss += options.front().loss;
    if (options.back().bytes > std::numeric_limits<int64_t>::max() - most_bytes || !std::isfinite(most_loss)) {
      return invalid_argument(
          fmt::format("the bytes or losses of the groups up to {} add up to too large a number", g));
    }
    most_bytes += options.back().bytes;
    problem.least_bytes += options.front().bytes;
  }
  return problem;
}

/// An edge of the lower convex hull of a group's options.
struct Step {
  size_t group;
  size_t to;  // the option at its end
  int64_t bytes;
  double saved;  // loss at its start less that at its end
  double slope;  // saved / bytes
};

/// The hull edges of all groups, the steepest first; those of one group stay in their order.
std::vector<Step> steepest_first(const std::vector<Options>& groups) {
  std::vector<Step> steps;
  for (size_t g = 0; g < groups.size(); ++g) {
    std::vector<Step> hull;
    for (size_t to = 1; to < groups[g].size();) {
      const Option& from = groups[g][hull.empty() ? 0 : hull.back().to];
      const int64_t bytes = groups[g][to].bytes - from.bytes;
      const double saved = from.loss - groups[g][to].loss;
      const double slope = saved / static_cast<double>(bytes);
      if (!hull.empty() && hull.back().slope <= slope) {
        hull.pop_back();  // its end lies above the hull
        continue;
      }
      hull.push_back({g, to, bytes, saved, slope});
      ++to;
    }
    steps.insert(steps.end(), hull.begin(), hull.end());
  }
  std::stable_sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) { return a.slope > b.slope; });
  return steps;
}

/// A solution within the budget: every step that still fits is taken. The first one that does not fit shows the price
/// of a byte at the budget; without one, every group has its least loss.
struct Greedy {
  std::vector<size_t> chosen;  // the option of every group
  std::optional<double> price;
};

Greedy walk(const Problem& problem, int64_t budget) {
  Greedy greedy{std::vector<size_t>(problem.groups.size(), 0), std::nullopt};
  std::vector<bool> stuck(problem.groups.size(), false);
  int64_t left = budget - problem.least_bytes;
  for (const Step& step : steepest_first(problem.groups)) {
    if (stuck[step.group]) continue;
    if (step.bytes > left) {
      stuck[step.group] = true;
      if (!greedy.price) greedy.price = step.slope;
      continue;
    }
    greedy.chosen[step.group] = step.to;
    left -= step.bytes;
  }
  return greedy;
}

/// cost / bytes
struct Rate {
  int64_t cost;
  int64_t bytes;
  bool operator<(const Rate& other) const { return Wide(cost) * other.bytes < Wide(other.cost) * bytes; }
};

/// An option, relative to the base of its group.
struct Move {
  int64_t bytes;
  int64_t cost;
  size_t option;
};

struct CoreGroup {
  size_t group;
  std::vector<Move> moves;  // one of them stays at the base: 0 bytes, no cost
  Rate rate;                // the least cost per byte more or less; at most the price of a byte
};

/// How a state came about; kept for all layers, one of which belongs to each core group.
struct Origin {
  uint32_t parent;  // index of a state of the layer before
  uint32_t move;
};

/// Totals of moves in the groups seen so far, all others at their base.
struct State {
  int64_t bytes;
  int64_t cost;
  Origin origin;
};

/// The exact search, which starts from a known solution. With a price p of a byte, the base of a group is its option
/// with the least loss + p bytes, and the cost of a move away from it is what this sum rises by. For every solution
///     loss = bound + costs of its moves + p (budget - bytes)
/// where `bound`, the Lagrangian one, is the same for all. So with `gap`, what the best known loss exceeds the bound
/// by, no moves matter that cost more in sum. All numbers are integers, a loss is a multiple of 2^-shift: no comparison
/// is in doubt. The losses looked at and the gap are below 2^62, sizes below 2^63.
class Core {
 public:
  Core(const std::vector<Options>& groups, int64_t budget, const std::vector<size_t>& known, double price);

  /// The option of every group.
  Result<std::vector<size_t>> solve(uint32_t most_states);
  /// Whether the optimum is so much better than what was known that its units are coarser than a double's.
  bool coarse() const { return bound_ + gap_ < Wide(1) << 52; }

 private:
  Wide units(const Option& option) const { return std::llrint(std::ldexp(option.loss, shift_)); }
  Wide priced(const Option& option) const { return units(option) + Wide(price_) * option.bytes; }
  void add_group(size_t group, const Options& options);
  bool promising(const State& state, const Rate& rate) const;
  std::vector<State> extend(const std::vector<State>& states, const std::vector<Move>& moves, const Rate& rate,
                            size_t most_states) const;
  std::optional<size_t> improve(const std::vector<State>& states);

  const int64_t budget_;
  double limit_ = 0;  // no choice of more loss is looked at
  int shift_ = 0;
  int64_t price_ = 0;
  Wide bound_ = 0;
  std::vector<size_t> known_;  // the option of every group in the solution that the search starts from
  int64_t gap_ = 0;            // of the best solution so far
  int64_t best_bytes_ = 0;     // the bytes of that solution
  std::vector<size_t> base_;   // the option of every group
  int64_t base_bytes_ = 0;
  std::vector<CoreGroup> groups_;  // those that may leave their base, by rising rate
};

Core::Core(const std::vector<Options>& groups, int64_t budget, const std::vector<size_t>& known, double price)
    : budget_(budget), known_(known), base_(known) {
  double loss = 0;
  for (size_t g = 0; g < groups.size(); ++g) loss += groups[g][known[g]].loss;
  limit_ = 2 * loss;  // twice, since the sum is rounded
  shift_ = 60 - std::ilogb(loss);
  // Any price gives a valid bound; down from the relaxed problem's, whose bound is the best one, it stays at least 0.
  price_ = static_cast<int64_t>(std::min(std::ldexp(price, shift_), 0x1p61));
  bound_ = -Wide(price_) * budget_;
  Wide known_units = 0;
  for (size_t g = 0; g < groups.size(); ++g) {
    for (size_t i = 0; i < groups[g].size(); ++i) {
      const Option& option = groups[g][i];
      if (option.loss <= limit_ && priced(option) < priced(groups[g][base_[g]])) base_[g] = i;
    }
    bound_ += priced(groups[g][base_[g]]);
    base_bytes_ += groups[g][base_[g]].bytes;
    known_units += units(groups[g][known[g]]);
    best_bytes_ += groups[g][known[g]].bytes;
  }
  gap_ = static_cast<int64_t>(known_units - bound_);
  for (size_t g = 0; g < groups.size(); ++g) add_group(g, groups[g]);
  // The cheapest to leave their base go first: for the later ones, every byte off the budget costs more.
  std::stable_sort(groups_.begin(), groups_.end(),
                   [](const CoreGroup& a, const CoreGroup& b) { return a.rate < b.rate; });
}

void Core::add_group(size_t group, const Options& options) {
  const Option& base = options[base_[group]];
  CoreGroup core{group, {}, {price_, 1}};
  for (size_t i = 0; i < options.size(); ++i) {
    if (options[i].loss > limit_) continue;
    const Wide cost = priced(options[i]) - priced(base);
    if (cost > gap_) continue;
    const Move move{options[i].bytes - base.bytes, static_cast<int64_t>(cost), i};
    core.moves.push_back(move);
    if (i != base_[group]) core.rate = std::min(core.rate, Rate{move.cost, std::abs(move.bytes)});
  }
  if (core.moves.size() > 1) groups_.push_back(std::move(core));
}

/// Whether `state` may lead to a better solution than is known if every byte off the budget costs `rate` or more.
bool Core::promising(const State& state, const Rate& rate) const {
  const Wide room = Wide(gap_ - state.cost) * rate.bytes - Wide(rate.cost) * std::abs(state.bytes - budget_);
  if (room != 0) return room > 0;
  // No less loss, but perhaps the same in fewer bytes, of which each costs its price.
  return state.cost + Wide(price_) * (budget_ - best_bytes_ + 1) <= gap_;
}

/// The undominated states with one more group, by rising bytes. Stops early above `most_states`.
std::vector<State> Core::extend(const std::vector<State>& states, const std::vector<Move>& moves, const Rate& rate,
                                size_t most_states) const {
  const auto smaller = [](const State& a, const State& b) {
    return std::tie(a.bytes, a.cost) < std::tie(b.bytes, b.cost);
  };
  const auto loss = [this](const State& s) { return s.cost - Wide(price_) * s.bytes; };  // less a constant
  std::vector<State> kept, moved, merged;
  for (uint32_t m = 0; m < moves.size() && kept.size() <= most_states; ++m) {
    moved.clear();
    for (uint32_t s = 0; s < states.size(); ++s) {
      const State state{states[s].bytes + moves[m].bytes, states[s].cost + moves[m].cost, {s, m}};
      if (promising(state, rate)) moved.push_back(state);
    }
    merged.clear();
    std::merge(kept.begin(), kept.end(), moved.begin(), moved.end(), std::back_inserter(merged), smaller);
    kept.clear();
    for (const State& state : merged) {
      if (kept.empty() || loss(state) < loss(kept.back())) kept.push_back(state);
    }
  }
  return kept;
}

/// The index of the state that, with all later groups at their base, is better than what was known.
std::optional<size_t> Core::improve(const std::vector<State>& states) {
  const auto fits = [this](const State& state) { return state.bytes <= budget_; };
  const auto end = std::partition_point(states.begin(), states.end(), fits);
  if (end == states.begin()) return std::nullopt;
  const State& best = *std::prev(end);  // losses fall as bytes rise
  const Wide gap = best.cost + Wide(price_) * (budget_ - best.bytes);
  if (gap > gap_ || (gap == gap_ && best.bytes >= best_bytes_)) return std::nullopt;
  gap_ = static_cast<int64_t>(gap);
  best_bytes_ = best.bytes;
  return std::prev(end) - states.begin();
}

Result<std::vector<size_t>> Core::solve(uint32_t most_states) {
  std::vector<State> states{{base_bytes_, 0, {}}};
  std::vector<std::vector<Origin>> layers;
  size_t kept = 0, best_layer = 0;
  std::optional<size_t> best = improve(states);
  for (size_t g = 0; g < groups_.size() && !states.empty(); ++g) {
    const Rate rest = g + 1 < groups_.size() ? groups_[g + 1].rate : Rate{price_, 1};
    states = extend(states, groups_[g].moves, rest, most_states - kept);
    kept += states.size();
    if (kept > most_states) {
      return resource_exhausted(fmt::format(
          "the best choices within {} bytes take more than {} partial solutions to find, since many groups lose the "
          "same per byte; try another budget or fewer choices",
          budget_, most_states));
    }
    std::vector<Origin>& layer = layers.emplace_back();
    layer.reserve(states.size());
    for (const State& state : states) layer.push_back(state.origin);
    if (const auto better = improve(states)) {
      best = better;
      best_layer = layers.size();
    }
  }
  if (!best) return known_;
  std::vector<size_t> chosen = base_;
  for (size_t state = *best; best_layer > 0; --best_layer) {
    const auto [parent, move] = layers[best_layer - 1][state];
    const CoreGroup& group = groups_[best_layer - 1];
    chosen[group.group] = group.moves[move].option;
    state = parent;
  }
  return chosen;
}

}  // namespace

Result<std::vector<size_t>> solve_knapsack(const Groups& groups, int64_t budget, uint32_t most_states) {
  AUTOGLM_ASSIGN_OR_RETURN(const Problem problem, read_groups(groups));
  if (budget < problem.least_bytes) {
    return invalid_argument(fmt::format("a budget of {} bytes is too small: the smallest choices add up to {} bytes",
                                        budget, problem.least_bytes));
  }
  auto [chosen, price] = walk(problem, budget);
  if (price) {
    for (bool coarse = true; coarse;) {  // hardly ever twice: at the scale of what the first round found
      Core core(problem.groups, budget, chosen, *price);
      AUTOGLM_ASSIGN_OR_RETURN(chosen, core.solve(most_states));
      coarse = core.coarse();
    }
  }
  for (size_t g = 0; g < groups.size(); ++g) chosen[g] = problem.groups[g][chosen[g]].index;
  return chosen;
}

std::vector<Point> convex_frontier(const Groups& groups) {
  const Result<Problem> problem = read_groups(groups);
  if (!problem.ok()) return {};
  const std::vector<Step> steps = steepest_first(problem->groups);
  std::vector<Point> points(steps.size() + 1);
  for (const Options& options : problem->groups) {
    points.front().bytes += options.front().bytes;
    points.back().loss += options.back().loss;
  }
  for (size_t i = 0; i < steps.size(); ++i) points[i + 1].bytes = points[i].bytes + steps[i].bytes;
  // From the end, where losses are small: adding keeps the digits that subtracting would lose.
  for (size_t i = steps.size(); i-- > 0;) points[i].loss = points[i + 1].loss + steps[i].saved;
  return points;
}

}  // namespace autoglm::search
