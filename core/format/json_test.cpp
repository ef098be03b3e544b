#include "core/format/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace autoglm::format {
namespace {

using testing::HasSubstr;

TEST(Json, ParsesAndKeepsTheOrderOfMembers) {
  const auto json = parse_json(R"({"b": [1, 2.5, null, {"b": true}], "a": "x"})");
  ASSERT_TRUE(json.ok());
  EXPECT_EQ(json->dump(), R"({"b":[1,2.5,null,{"b":true}],"a":"x"})");
}

TEST(Json, RefusesWhatTheParserWouldHide) {
  const auto refusal = [](std::string_view text) { return parse_json(text).status().message(); };
  EXPECT_THAT(refusal(R"({"a": {"x": 1, "y": 2, "x": 3}})"), HasSubstr("'x' occurs twice"));
  EXPECT_TRUE(parse_json(R"([{"x": 1}, {"x": 1, "y": {"x": 2}}])").ok());
  EXPECT_THAT(refusal(std::string_view("{}\0garbage", 10)), HasSubstr("zero byte"));
  EXPECT_THAT(refusal(""), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal("{\"a\": 1e999}"), HasSubstr("out of range"));
  EXPECT_THAT(refusal("\"\xff\""), HasSubstr("not valid JSON at byte"));
  EXPECT_TRUE(parse_json(std::string(100, '[') + std::string(100, ']')).ok());
  EXPECT_THAT(refusal(std::string(101, '[') + std::string(101, ']')), HasSubstr("deeper than 100"));
  EXPECT_THAT(refusal(std::string(1 << 22, '[')), HasSubstr("deeper than 100"));
}

}  // namespace
}  // namespace autoglm::format
