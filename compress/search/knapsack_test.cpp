#include "compress/search/knapsack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace autoglm::search {
namespace {

/// Random numbers that are the same with every standard library.
class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  /// In [first, last].
  int64_t whole(int64_t first, int64_t last) {
    return first + static_cast<int64_t>(engine_() % uint64_t(last - first + 1));
  }
  /// In [0, 1).
  double share() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }

 private:
  std::mt19937_64 engine_;
};

Point totals(const Groups& groups, const std::vector<size_t>& chosen) {
  Point sum;
  for (size_t g = 0; g < groups.size(); ++g) {
    sum.bytes += groups[g][chosen[g]].bytes;
    sum.loss += groups[g][chosen[g]].loss;
  }
  return sum;
}

/// The totals of every choice.
std::vector<Point> all_totals(const Groups& groups) {
  std::vector<Point> sums{{0, 0}};
  for (const std::vector<Choice>& group : groups) {
    std::vector<Point> longer;
    for (const Point& sum : sums) {
      for (const Choice& choice : group) longer.push_back({sum.bytes + choice.bytes, sum.loss + choice.loss});
    }
    sums = std::move(longer);
  }
  return sums;
}

/// The least loss, of equal ones the fewest bytes, by definition.
Point best_total(const std::vector<Point>& sums, int64_t budget) {
  Point best{std::numeric_limits<int64_t>::max(), std::numeric_limits<double>::infinity()};
  for (const Point& sum : sums) {
    if (sum.bytes <= budget && std::tie(sum.loss, sum.bytes) < std::tie(best.loss, best.bytes)) best = sum;
  }
  return best;
}

/// The loss that mixtures of choices reach: on the frontier, or on the line between two of its points.
double relaxed_loss(const std::vector<Point>& frontier, int64_t budget) {
  const auto above = std::find_if(frontier.begin(), frontier.end(), [&](const Point& p) { return p.bytes > budget; });
  if (above == frontier.end()) return frontier.back().loss;
  const Point& below = *std::prev(above);
  const double share = static_cast<double>(budget - below.bytes) / static_cast<double>(above->bytes - below.bytes);
  return below.loss + share * (above->loss - below.loss);
}

/// Losses are small multiples of powers of four, so that their sums are exact in every order.
Groups small_groups(Random& random) {
  Groups groups(static_cast<size_t>(random.whole(1, 6)));
  const int64_t spread = random.whole(0, 3);  // how far apart sizes are: the closer, the more ties
  for (std::vector<Choice>& group : groups) {
    group.resize(static_cast<size_t>(random.whole(1, 6)));
    for (Choice& choice : group) {
      choice.bytes = random.whole(0, int64_t{4} << 4 * spread);
      choice.loss = std::ldexp(static_cast<double>(random.whole(0, 7)), static_cast<int>(-2 * random.whole(0, 6)));
      if (random.whole(0, 5) == 0) choice = group.front();
    }
  }
  return groups;
}

/// A model of `layers` layers of four groups and an embedding, each in 48 formats (1 to 8 bits, six group sizes), with
/// losses of about c 4^-bits. `noise` is in the losses: without it, all groups of a kind lose exactly the same per
/// byte.
Groups model_groups(int layers, double noise, Random& random) {
  Groups groups;
  const auto add = [&](int64_t rows, int64_t cols) {
    const double sensitivity = noise > 0 ? std::pow(10.0, 4 * random.share()) : 1;
    std::vector<Choice>& group = groups.emplace_back();
    for (int bits = 1; bits <= 8; ++bits) {
      for (int coarseness = 0; coarseness < 6; ++coarseness) {
        const int64_t scales = rows * std::max<int64_t>(1, cols >> (5 + coarseness));
        const double loss = sensitivity * std::pow(0.25, bits) * (1 + 0.15 * coarseness);
        group.push_back({rows * cols * bits / 8 + 2 * scales, loss * (1 + noise * (random.share() - 0.5))});
      }
    }
  };
  add(20 * 5120, 12288);
  for (int layer = 0; layer < layers; ++layer) {
    add(14336, 5120);
    add(5120, 12288);
    add(24576, 5120);
    add(5120, 12288);
  }
  return groups;
}

void expect_refused(const Groups& groups, int64_t budget, const std::vector<std::string>& words) {
  const Result<std::vector<size_t>> result = solve_knapsack(groups, budget);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), StatusCode::kInvalidArgument);
  for (const std::string& word : words) {
    EXPECT_NE(result.status().message().find(word), std::string::npos) << result.status().message();
  }
}

TEST(Knapsack, ByHand) {
  const Groups groups{{{10, 8}, {20, 3}, {30, 1}}, {{10, 9}, {30, 0}, {15, 9}}, {{5, 1}, {5, 1}, {6, 1}}};
  EXPECT_EQ(*solve_knapsack(groups, 25), (std::vector<size_t>{0, 0, 0}));
  EXPECT_EQ(*solve_knapsack(groups, 44), (std::vector<size_t>{1, 0, 0}));  // 12; the relaxed optimum mixes the second
  EXPECT_EQ(*solve_knapsack(groups, 45), (std::vector<size_t>{0, 1, 0}));  // 9
  EXPECT_EQ(*solve_knapsack(groups, 1000), (std::vector<size_t>{2, 1, 0}));
  EXPECT_EQ(*solve_knapsack({}, 0), std::vector<size_t>{});
}

TEST(Knapsack, EqualsBruteForce) {
  Random random(1);
  for (int instance = 0; instance < 1000; ++instance) {
    const Groups groups = small_groups(random);
    const std::vector<Point> sums = all_totals(groups);
    const std::vector<Point> frontier = convex_frontier(groups);
    const int64_t least = frontier.front().bytes, most = frontier.back().bytes;
    std::vector<int64_t> budgets{least, most, most - 1, most + 1, std::numeric_limits<int64_t>::max()};
    for (int i = 0; i < 4; ++i) budgets.push_back(random.whole(least, most));
    budgets.push_back(sums[static_cast<size_t>(random.whole(0, static_cast<int64_t>(sums.size()) - 1))].bytes);
    for (const int64_t budget : budgets) {
      if (budget < least) continue;
      const Point best = best_total(sums, budget);
      const Result<std::vector<size_t>> chosen = solve_knapsack(groups, budget);
      ASSERT_TRUE(chosen.ok()) << chosen.status().message();
      const Point sum = totals(groups, *chosen);
      EXPECT_EQ(sum.loss, best.loss) << "instance " << instance << ", budget " << budget;
      EXPECT_EQ(sum.bytes, best.bytes) << "instance " << instance << ", budget " << budget;
    }
  }
}

// The greedy solution loses 2^40 / 12 times too much; at its scale the last two groups lose nothing.
TEST(Knapsack, SeesSmallLossesBehindABadGreedySolution) {
  const int64_t large = int64_t{1} << 40;
  const Groups groups{
      {{0, 12}, {8, 0}}, {{0, std::ldexp(1.0, 40)}, {large, 0}}, {{0, 3e-8}, {1, 1e-8}}, {{0, 2.5e-8}, {1, 0.6e-8}}};
  EXPECT_EQ(*solve_knapsack(groups, large + 1), (std::vector<size_t>{0, 1, 1, 0}));
}

TEST(Knapsack, TakesNumbersOfEverySize) {
  const int64_t huge = std::numeric_limits<int64_t>::max() / 2;
  const double tiny = std::numeric_limits<double>::denorm_min();
  const Groups groups{{{0, 1e308}, {huge, tiny}}, {{0, 5 * tiny}, {1, 4 * tiny}, {huge, 0}}};
  EXPECT_EQ(*solve_knapsack(groups, huge - 1), (std::vector<size_t>{0, 0}));  // to a double, the byte saves nothing
  EXPECT_EQ(*solve_knapsack(groups, huge), (std::vector<size_t>{1, 0}));
  EXPECT_EQ(*solve_knapsack(groups, huge + 1), (std::vector<size_t>{1, 1}));
  EXPECT_EQ(*solve_knapsack(groups, 2 * huge), (std::vector<size_t>{1, 2}));
}

TEST(Knapsack, RefusesBadInput) {
  const double infinity = std::numeric_limits<double>::infinity();
  const int64_t huge = std::numeric_limits<int64_t>::max();
  expect_refused({{{1, 1}}, {}}, 10, {"group 1"});
  expect_refused({{{1, 1}, {-5, 1}}}, 10, {"group 0", "choice 1", "-5"});
  expect_refused({{{1, -0.5}}}, 10, {"group 0", "choice 0", "-0.5"});
  expect_refused({{{1, infinity}}}, 10, {"inf"});
  expect_refused({{{1, std::nan("")}}}, 10, {"nan"});
  expect_refused({{{huge, 1}}, {{1, 1}}}, huge, {"group", "1", "too large"});
  expect_refused({{{1, 1e308}}, {{1, 1e308}}}, 10, {"group", "1", "too large"});
  expect_refused({{{70, 1}, {60, 2}}, {{40, 1}}}, 99, {"99", "100"});
  expect_refused({}, -1, {"-1", "0"});
  EXPECT_TRUE(convex_frontier({{{1, 1}}, {}}).empty());
}

TEST(Knapsack, SaysThatTheSearchIsTooLarge) {
  Random random(2);
  Groups groups;
  for (int g = 0; g < 12; ++g) {
    const int64_t bytes = random.whole(1, 1'000'000);
    groups.push_back({{bytes, static_cast<double>(3 * bytes)}, {2 * bytes, static_cast<double>(2 * bytes)}});
  }
  const std::vector<Point> frontier = convex_frontier(groups);
  const int64_t budget = (frontier.front().bytes + frontier.back().bytes) / 2;
  const Result<std::vector<size_t>> result = solve_knapsack(groups, budget, 100);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), StatusCode::kResourceExhausted);
  EXPECT_NE(result.status().message().find(std::to_string(budget)), std::string::npos) << result.status().message();
  EXPECT_EQ(totals(groups, *solve_knapsack(groups, budget)).loss, best_total(all_totals(groups), budget).loss);
}

TEST(Knapsack, AllocatesALargeModel) {
  Random random(3);
  const Groups groups = model_groups(162, 0.1, random);
  const std::vector<Point> frontier = convex_frontier(groups);
  const int64_t least = frontier.front().bytes, most = frontier.back().bytes;
  for (const int percent : {0, 1, 10, 25, 40, 60, 80, 95, 99, 100}) {
    const int64_t budget = least + (most - least) / 100 * percent;
    const Result<std::vector<size_t>> chosen = solve_knapsack(groups, budget);
    ASSERT_TRUE(chosen.ok()) << chosen.status().message();
    const Point sum = totals(groups, *chosen);
    const Point greedy = *std::prev(
        std::find_if(frontier.begin(), frontier.end(), [&](const Point& point) { return point.bytes > budget; }));
    const double bound = relaxed_loss(frontier, budget);
    EXPECT_LE(sum.bytes, budget) << percent;
    EXPECT_LE(sum.loss, greedy.loss * (1 + 1e-12)) << percent;
    EXPECT_GE(sum.loss, bound * (1 - 1e-12)) << percent;
    EXPECT_LE(sum.loss, bound * 1.001) << percent;
  }
}

TEST(Knapsack, DependsNotOnTheOrderOfChoices) {
  Random random(4);
  for (int instance = 0; instance < 200; ++instance) {
    const bool large = instance == 0;
    const Groups groups = large ? model_groups(20, 0, random) : small_groups(random);
    Groups shuffled = groups;
    for (std::vector<Choice>& group : shuffled) {
      for (size_t i = group.size(); i > 1; --i) {
        std::swap(group[i - 1], group[static_cast<size_t>(random.whole(0, static_cast<int64_t>(i) - 1))]);
      }
    }
    const std::vector<Point> frontier = convex_frontier(groups);
    const int64_t budget = random.whole(frontier.front().bytes, frontier.back().bytes);
    const std::vector<size_t> chosen = *solve_knapsack(groups, budget);
    const Point sum = totals(groups, chosen);
    const Point again = totals(shuffled, *solve_knapsack(shuffled, budget));
    EXPECT_EQ(chosen, *solve_knapsack(groups, budget));
    EXPECT_EQ(sum.bytes, again.bytes) << instance;
    EXPECT_DOUBLE_EQ(sum.loss, again.loss) << instance;
  }
}

TEST(Knapsack, TakesTheFirstOfEqualChoices) {
  EXPECT_EQ(*solve_knapsack({{{9, 5}, {3, 2}, {3, 2}, {4, 2}}, {{7, 0}, {7, 0}}}, 12), (std::vector<size_t>{1, 0}));
}

TEST(ConvexFrontier, ByHand) {
  // Of the first group, 20 bytes lie above the line from 10 to 30; of the second, 8 bytes are dominated.
  const std::vector<Point> frontier = convex_frontier({{{10, 8}, {30, 0}, {20, 5}}, {{6, 9}, {8, 9}, {7, 3}}});
  ASSERT_EQ(frontier.size(), 3U);
  const std::vector<Point> expected{{16, 17}, {17, 11}, {37, 3}};
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(frontier[i].bytes, expected[i].bytes) << i;
    EXPECT_EQ(frontier[i].loss, expected[i].loss) << i;
  }
  EXPECT_EQ(convex_frontier({}).size(), 1U);
}

TEST(ConvexFrontier, IsTheLowerHullOfAllTotals) {
  Random random(5);
  for (int instance = 0; instance < 300; ++instance) {
    const Groups groups = small_groups(random);
    const std::vector<Point> sums = all_totals(groups);
    const std::vector<Point> frontier = convex_frontier(groups);
    const Point least = best_total(sums, std::numeric_limits<int64_t>::max());
    int64_t least_bytes = std::numeric_limits<int64_t>::max();
    for (const Point& sum : sums) least_bytes = std::min(least_bytes, sum.bytes);
    EXPECT_EQ(frontier.front().bytes, least_bytes);
    EXPECT_EQ(frontier.back().bytes, least.bytes);
    EXPECT_EQ(frontier.back().loss, least.loss);
    for (const Point& point : frontier) {
      EXPECT_EQ(best_total(sums, point.bytes).loss, point.loss) << instance << ", " << point.bytes << " bytes";
    }
    for (const Point& sum : sums) EXPECT_GE(sum.loss, relaxed_loss(frontier, sum.bytes) - 1e-12) << instance;
  }
}

TEST(ConvexFrontier, IsConvexForALargeModel) {
  Random random(6);
  const std::vector<Point> frontier = convex_frontier(model_groups(162, 0.1, random));
  EXPECT_GT(frontier.size(), 1000U);
  double last_slope = std::numeric_limits<double>::infinity();
  for (size_t i = 1; i < frontier.size(); ++i) {
    ASSERT_GT(frontier[i].bytes, frontier[i - 1].bytes);
    ASSERT_LE(frontier[i].loss, frontier[i - 1].loss);
    const double bytes = static_cast<double>(frontier[i].bytes - frontier[i - 1].bytes);
    const double slope = (frontier[i - 1].loss - frontier[i].loss) / bytes;
    EXPECT_LE(slope, last_slope + frontier[i].loss * 1e-14 / bytes) << i;
    last_slope = slope;
  }
}

}  // namespace
}  // namespace autoglm::search
