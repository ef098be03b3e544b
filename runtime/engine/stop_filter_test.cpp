#include "runtime/engine/stop_filter.h"

#include <gtest/gtest.h>

#include <random>

namespace autoglm::engine {
namespace {

TEST(StopFilter, WithoutStopsEverythingPasses) {
  StopFilter filter({""});
  EXPECT_EQ(filter.push("abc"), "abc");
  EXPECT_EQ(filter.push(""), "");
  EXPECT_EQ(filter.finish(), "");
  EXPECT_FALSE(filter.stopped());
}

TEST(StopFilter, HoldsBackWhatMayBeTheBeginning) {
  StopFilter filter({"\n\nUser:"});
  EXPECT_EQ(filter.push("Hello\n"), "Hello");
  EXPECT_EQ(filter.push("\n"), "");
  EXPECT_EQ(filter.push("U"), "");
  EXPECT_EQ(filter.push("nder\n\nUs"), "\n\nUnder");
  EXPECT_FALSE(filter.stopped());
  EXPECT_EQ(filter.push("er: next"), "");
  EXPECT_TRUE(filter.stopped());
  EXPECT_EQ(filter.push("more"), "");
  EXPECT_EQ(filter.finish(), "");
}

TEST(StopFilter, AtTheEndWhatWasHeldComesOut) {
  StopFilter filter({"END"});
  EXPECT_EQ(filter.push("the EN"), "the ");
  EXPECT_EQ(filter.finish(), "EN");
}

/// The definition, on the whole text.
std::string expected(const std::string& text, const std::vector<std::string>& stops, bool& stopped) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops) {
      if (stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0) {
        longest = std::max(longest, stop.size());
      }
    }
    if (longest > 0) {
      stopped = true;
      return text.substr(0, end - longest);
    }
  }
  stopped = false;
  return text;
}

TEST(StopFilter, PiecesDoNotMatter) {
  std::mt19937 random(5);
  const auto word = [&](size_t length) {
    std::string text;
    while (text.size() < length) text += static_cast<char>('a' + random() % 2);
    return text;
  };
  int stops_seen = 0;
  for (int round = 0; round < 3000; ++round) {
    const std::string text = word(random() % 24);
    const std::vector<std::string> stops = {word(2 + random() % 4), word(3 + random() % 3)};
    StopFilter filter(stops);
    std::string out;
    for (size_t at = 0; at < text.size();) {
      const size_t size = 1 + random() % 5;
      out += filter.push(std::string_view(text).substr(at, size));
      at += size;
    }
    out += filter.finish();
    bool stopped = false;
    EXPECT_EQ(out, expected(text, stops, stopped)) << text;
    EXPECT_EQ(filter.stopped(), stopped);
    stops_seen += stopped;
  }
  EXPECT_GT(stops_seen, 500);
}

}  // namespace
}  // namespace autoglm::engine
