#include "core/eval/duplicates.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <set>

#include "core/eval/random.h"

namespace autoglm::eval {
namespace {

using Kind = Duplicates::Kind;

/// `count` words, none of which any other text has.
std::vector<std::string> words(SplitMix64& random, size_t count) {
  std::vector<std::string> out;
  for (size_t i = 0; i < count; ++i) out.push_back(fmt::format("word{:x}", random.next()));
  return out;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += word + " ";
  return text;
}

/// Of runs of four words, by definition.
double resemblance(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  const auto shingles = [](const std::vector<std::string>& words) {
    std::set<std::string> out;
    for (size_t i = 0; i + 4 <= words.size(); ++i) out.insert(joined({words.begin() + i, words.begin() + i + 4}));
    return out;
  };
  const auto first = shingles(a), second = shingles(b);
  size_t common = 0;
  for (const std::string& shingle : first) common += second.count(shingle);
  return static_cast<double>(common) / static_cast<double>(first.size() + second.size() - common);
}

TEST(Duplicates, CaseAndSpacingMakeNoDifference) {
  Duplicates seen;
  EXPECT_EQ(seen.add("The Martians came.\nThey were few."), Kind::kNew);
  EXPECT_EQ(seen.add("the martians  came. They\t were FEW.\n\n"), Kind::kSame);
  EXPECT_EQ(seen.add("THE MARTIANS CAME.\u00a0THEY\u2003WERE FEW."), Kind::kSame);
  EXPECT_EQ(seen.add("The Martians came! They were few."), Kind::kNew);  // far too short for near duplicates
  EXPECT_EQ(seen.add("The Mar tians came.\nThey were few."), Kind::kNew);
  EXPECT_EQ(seen.add("敏捷的棕色狐狸"), Kind::kNew);
  EXPECT_EQ(seen.add("敏捷的 棕色\n狐狸"), Kind::kSame);
  EXPECT_EQ(seen.add("ÄÖ"), Kind::kNew);
  EXPECT_EQ(seen.add("äö"), Kind::kSame);
  EXPECT_EQ(seen.add(""), Kind::kNew);
  EXPECT_EQ(seen.add(" \n"), Kind::kSame);
  EXPECT_EQ(seen.add("\xff\xfe"), Kind::kNew);
}

TEST(Duplicates, NearOnesAreThoseThatResembleAnEarlierOne) {
  SplitMix64 random(1);
  int near = 0;
  for (int trial = 0; trial < 300; ++trial) {
    const std::vector<std::string> first = words(random, 200);
    std::vector<std::string> second = first;
    for (uint64_t changes = random.below(12); changes > 0; --changes) second[random.below(200)] = words(random, 1)[0];
    if (second == first) continue;
    const double share = resemblance(first, second);
    Duplicates seen;
    for (int other = 0; other < 20; ++other) seen.add(joined(words(random, 200)));
    ASSERT_EQ(seen.add(joined(first)), Kind::kNew);
    const Kind kind = seen.add(joined(second));
    EXPECT_EQ(kind, share > Duplicates::kResemblance ? Kind::kNear : Kind::kNew) << share;
    near += kind == Kind::kNear ? 1 : 0;
  }
  EXPECT_GT(near, 50);
  EXPECT_LT(near, 250);
}

TEST(Duplicates, WhatOnlyATemplateHasInCommonIsNew) {
  Duplicates seen;
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(seen.add(fmt::format("You operate a phone. Reply with one action. App: Files - Item{} - Item{} Task: tap "
                                   "Item{}",
                                   i * 3, i * 3 + 1, i * 3 + 2)),
              Kind::kNew);
  }
}

}  // namespace
}  // namespace autoglm::eval
