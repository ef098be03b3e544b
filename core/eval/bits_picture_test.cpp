#include "core/eval/bits_picture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace autoglm::eval {
namespace {

using testing::HasSubstr;
using testing::Not;

AutomaticBits example() {
  AutomaticBits bits;
  bits.profile = "any";
  bits.bytes = 2'000'000;
  bits.estimated_kl = 0.02;
  bits.formats = {{"model.embed_tokens", "int8-channel", 800, 8.01, 0.001},
                  {"model.layers.0.self_attn.q_proj+k_proj+v_proj", "int3-g64", 300, 3.25, 0.01},
                  {"model.layers.0.mlp.down_proj", "int4-g128", 400, 4.125, 0.009},
                  {"model.layers.10.mlp.down_proj", "keep", 1600, 16, 0}};
  bits.curve = {{1'000'000, 0.5}, {2'000'000, 0.02}, {4'000'000, 0.0}};
  bits.attempts = {{2'000'000, 0.02, 0.015, 0.01, true}, {1'500'000, 0.1, 0.08, 0.03, false}};
  return bits;
}

TEST(BitsTable, HasALineForEachLayer) {
  EXPECT_EQ(bits_table(example()),
            "bits      q_proj+k_proj+v_proj  down_proj\n"
            "-----------------------------------------\n"
            "layer 0                    3.2        4.1\n"
            "layer 10                             16.0\n"
            "model.embed_tokens: 8.0 (int8-channel)\n");
  EXPECT_EQ(bits_table({}), "");
}

TEST(BitsSvg, DrawsEveryGroupTheCurveAndWhatWasMeasured) {
  const std::string svg = bits_svg(example());
  EXPECT_THAT(svg, testing::StartsWith("<svg "));
  EXPECT_THAT(svg, testing::EndsWith("</svg>\n"));
  for (const char* words :
       {"model.layers.10.mlp.down_proj", "3.25 int3-g64", "16.00 keep", "<polyline", "#2a2", "#c33"}) {
    EXPECT_THAT(svg, HasSubstr(words));
  }
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
}

TEST(BitsSvg, IsWholeWhateverItIsGiven) {
  AutomaticBits hostile = example();
  hostile.formats[0].name = "<script>&\"\n layers.99999999999999999999.x";
  EXPECT_THAT(bits_svg(hostile), Not(HasSubstr("<script>")));
  EXPECT_FALSE(bits_table(hostile).empty());
  hostile.curve.clear();
  hostile.attempts.clear();
  hostile.estimated_kl = 0;
  EXPECT_THAT(bits_svg(hostile), Not(HasSubstr("nan")));
  EXPECT_THAT(bits_svg({}), testing::EndsWith("</svg>\n"));
}

}  // namespace
}  // namespace autoglm::eval
