#include "runtime/engine/page_pool.h"

#include <gmock/gmock.h>

#include <map>
#include <random>

namespace autoglm::engine {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Tokens = std::vector<int32_t>;

TEST(PagePool, GivesEveryPageOnceAndThenNone) {
  PagePool pool(3, 4);
  const Tokens got = {pool.acquire(), pool.acquire(), pool.acquire()};
  EXPECT_THAT(got, testing::UnorderedElementsAre(0, 1, 2));
  EXPECT_EQ(pool.available(), 0);
  EXPECT_EQ(pool.acquire(), -1);
  pool.release(1);
  EXPECT_EQ(pool.available(), 1);
  EXPECT_EQ(pool.acquire(), 1);
  EXPECT_EQ(pool.pages_for(0), 0);
  EXPECT_EQ(pool.pages_for(4), 1);
  EXPECT_EQ(pool.pages_for(5), 2);
}

TEST(PagePool, FindsWhatWasPublishedUntilThePageIsReused) {
  PagePool pool(3, 2);
  const int32_t a = pool.acquire(), b = pool.acquire();
  pool.publish(a, -1, Tokens{1, 2});
  pool.publish(b, a, Tokens{3, 4});
  EXPECT_THAT(pool.find_prefix(Tokens{1, 2, 3, 4, 5}), ElementsAre(a, b));
  EXPECT_THAT(pool.find_prefix(Tokens{1, 2, 3}), ElementsAre(a));
  EXPECT_THAT(pool.find_prefix(Tokens{1, 3, 3, 4}), IsEmpty());
  EXPECT_THAT(pool.find_prefix(Tokens{3, 4}), IsEmpty());  // only behind 1, 2

  pool.release(b);
  pool.release(a);
  EXPECT_EQ(pool.available(), 3);
  EXPECT_EQ(pool.idle(Tokens{a, b}), 2);
  pool.share(a);
  EXPECT_EQ(pool.available(), 2);
  EXPECT_EQ(pool.idle(Tokens{a, b}), 1);
  EXPECT_THAT(pool.find_prefix(Tokens{1, 2, 3, 4}), ElementsAre(a, b));

  // The third page was never used; then b, the longest idle, is taken and forgotten.
  EXPECT_NE(pool.acquire(), b);
  EXPECT_EQ(pool.acquire(), b);
  EXPECT_THAT(pool.find_prefix(Tokens{1, 2, 3, 4}), ElementsAre(a));
  EXPECT_EQ(pool.acquire(), -1);
}

TEST(PagePool, APageBehindAReusedOneCannotBeFound) {
  PagePool pool(2, 1);
  const int32_t a = pool.acquire(), b = pool.acquire();
  pool.publish(a, -1, Tokens{1});
  pool.publish(b, a, Tokens{2});
  pool.release(a);  // the wrong way round: the first page is the longest idle
  pool.release(b);
  EXPECT_EQ(pool.acquire(), a);
  pool.publish(a, -1, Tokens{9});
  EXPECT_THAT(pool.find_prefix(Tokens{9, 2}), ElementsAre(a));
  EXPECT_THAT(pool.find_prefix(Tokens{1, 2}), IsEmpty());
}

TEST(PagePool, AnEqualPageIsKnownOnce) {
  PagePool pool(4, 1);
  const int32_t a = pool.acquire(), twin = pool.acquire(), behind = pool.acquire();
  pool.publish(a, -1, Tokens{1});
  pool.publish(twin, -1, Tokens{1});
  pool.publish(behind, twin, Tokens{2});
  EXPECT_THAT(pool.find_prefix(Tokens{1, 2}), ElementsAre(a));
  pool.release(twin);
  EXPECT_EQ(pool.idle(Tokens{twin}), 1);
  EXPECT_EQ(pool.available(), 2);
}

TEST(PagePool, RandomUseKeepsCountAndNeverGivesAWrongPrefix) {
  std::mt19937 random(3);
  PagePool pool(12, 2);
  std::map<int32_t, Tokens> contents;  // of each page, with what led to it
  std::vector<std::vector<int32_t>> sequences;
  for (int round = 0; round < 4000; ++round) {
    if (!sequences.empty() && random() % 3 == 0) {
      const size_t victim = random() % sequences.size();
      for (auto page = sequences[victim].rbegin(); page != sequences[victim].rend(); ++page) pool.release(*page);
      sequences.erase(sequences.begin() + static_cast<std::ptrdiff_t>(victim));
      continue;
    }
    Tokens tokens(2 * (1 + random() % 3));
    for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 2);
    std::vector<int32_t> pages = pool.find_prefix(tokens);
    for (size_t i = 0; i < pages.size(); ++i) {
      const Tokens lead(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(2 * (i + 1)));
      ASSERT_EQ(contents[pages[i]], lead);
      pool.share(pages[i]);
    }
    while (pages.size() < tokens.size() / 2 && pool.available() > 0) {
      const int32_t page = pool.acquire();
      ASSERT_GE(page, 0);
      const size_t begin = 2 * pages.size();
      contents[page] = Tokens(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(begin + 2));
      pool.publish(page, pages.empty() ? -1 : pages.back(), std::span(tokens).subspan(begin, 2));
      pages.push_back(page);
    }
    sequences.push_back(pages);
    std::map<int32_t, int> held;
    for (const auto& sequence : sequences) {
      for (const int32_t page : sequence) ++held[page];
    }
    ASSERT_EQ(pool.available(), pool.pages() - static_cast<int64_t>(held.size()));
  }
}

}  // namespace
}  // namespace autoglm::engine
