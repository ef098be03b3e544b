#include "core/format/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace autoglm::format {
namespace {

using ::testing::HasSubstr;
using Match = Regex::Match;

TEST(Regex, SearchesAnywhereOrFromTheStart) {
  EXPECT_EQ(Regex::compile("b+")->search("abba"), Match::kYes);
  EXPECT_EQ(Regex::compile("b+", /*anchored=*/true)->search("abba"), Match::kNo);
  EXPECT_EQ(Regex::compile("^a.*a$")->search("abba"), Match::kYes);
  EXPECT_EQ(Regex::compile("x")->search(""), Match::kNo);
}

TEST(Regex, RefusesWhatDoesNotCompile) {
  const auto status = Regex::compile("a(b").status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("at its byte 3"));
  EXPECT_FALSE(Regex::compile(std::string(5000, 'a')).ok());
  EXPECT_FALSE(Regex::compile(std::string(4000, '(')).ok());
  EXPECT_FALSE(Regex::compile("\xff").ok());
}

TEST(Regex, GivesUpInTime) {
  const auto regex = Regex::compile("(([a-z0-9_.])+)+\\d$");
  ASSERT_TRUE(regex.ok());
  EXPECT_EQ(regex->search("model.layers.0.self_attn.q_proj"), Match::kGivesUp);
}

}  // namespace
}  // namespace autoglm::format
