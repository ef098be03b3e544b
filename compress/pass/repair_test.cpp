#include "compress/pass/repair.h"

#include <gtest/gtest.h>

#include "core/base/log.h"

namespace autoglm::pass {
namespace {

std::vector<std::string> ladder(const std::string& word) {
  std::vector<std::string> out;
  for (auto scheme = more_bits(Scheme::parse(word).value()); scheme; scheme = more_bits(*scheme)) {
    out.push_back(scheme->to_string());
  }
  return out;
}

TEST(Repair, MoreBitsKeepsAllElse) {
  EXPECT_EQ(ladder("int2-g64-asym"), (std::vector<std::string>{"int3-g64-asym", "int4-g64-asym", "int5-g64-asym",
                                                               "int6-g64-asym", "int8-g64-asym"}));
  EXPECT_EQ(ladder("int6"), std::vector<std::string>{"int8"});
  for (const std::string word : {"int8", "w8a8", "bf16"}) EXPECT_TRUE(ladder(word).empty()) << word;
}

TEST(Repair, SaysWhichMatrixLostMost) {
  const auto before = warnings().size();
  warn_of_losses({{"a", "gptq", "int4", 0, 0.999, 0.02, ""}, {"b", "rtn", "int4", 0, 0.96, 0, ""}});
  EXPECT_EQ(warnings().size(), before);
  warn_of_losses({{"a", "gptq", "int4", 0, 0.999, 0.02, ""},
                  {"b", "gptq", "int2", 0, 0.99, 0.25, ""},
                  {"c", "rtn", "int2", 0, 0.9, 0, ""}});
  ASSERT_EQ(warnings().size(), before + 1);
  EXPECT_EQ(warnings().back().substr(0, 76),
            "2 of 3 matrices lost more than 10 % of their output (most: b, 25 %); more bi");
}

}  // namespace
}  // namespace autoglm::pass
