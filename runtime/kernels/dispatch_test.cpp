#include <gtest/gtest.h>

#include <cstdlib>
#include <set>
#include <tuple>
#include <utility>

#include "runtime/kernels/kernels.h"

namespace autoglm::kernels {
namespace {

/// Sets AUTOGLM_ISA for a test and puts back what was there.
class Environment : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const char* value = std::getenv("AUTOGLM_ISA")) before_ = value;
  }
  void TearDown() override { before_.empty() ? unsetenv("AUTOGLM_ISA") : setenv("AUTOGLM_ISA", before_.c_str(), 1); }
  std::string before_;
};

TEST_F(Environment, ChoosesTheBestUnlessTold) {
  unsetenv("AUTOGLM_ISA");
  ASSERT_TRUE(select().ok());
  EXPECT_EQ(*select(), available().front());
  setenv("AUTOGLM_ISA", "", 1);
  EXPECT_EQ(*select(), available().front());
}

TEST_F(Environment, RunsWhatTheEnvironmentNames) {
  for (const Kernels* table : available()) {
    setenv("AUTOGLM_ISA", table->name, 1);
    const auto chosen = select();
    ASSERT_TRUE(chosen.ok());
    EXPECT_STREQ((*chosen)->name, table->name);
  }
}

TEST_F(Environment, RefusesUnknownNamesInOneLine) {
  setenv("AUTOGLM_ISA", "mmx\n", 1);
  const Status status = select().status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("AUTOGLM_ISA"), std::string::npos);
  EXPECT_NE(status.message().find("generic"), std::string::npos);
  EXPECT_EQ(status.message().find('\n'), std::string::npos);
}

TEST(Dispatch, EveryTableIsWholeAndItsOwn) {
  std::set<std::string> names;
  using Product = void (*)(const LinearTask&);
  std::set<std::tuple<Product, Product, Product>> products;
  for (const Kernels* table : available()) {
    EXPECT_TRUE(names.insert(table->name).second);
    EXPECT_TRUE(products.emplace(table->linear, table->linear_int8, table->linear_split).second)
        << table->name << " runs another's kernels";
    const bool splits = table->wants_split != nullptr;
    EXPECT_EQ(table->split != nullptr, splits);
    EXPECT_EQ(table->linear_split != nullptr, splits);
    EXPECT_NE(table->quantize, nullptr);
    EXPECT_NE(table->store_kv, nullptr);
    EXPECT_NE(table->attention, nullptr);
    EXPECT_NE(table->rms_norm, nullptr);
    EXPECT_NE(table->rotary, nullptr);
    EXPECT_NE(table->swiglu, nullptr);
    EXPECT_NE(table->add_scaled, nullptr);
    EXPECT_NE(table->f16_to_f32, nullptr);
    EXPECT_NE(table->bf16_to_f32, nullptr);
    EXPECT_NE(table->f32_to_f16, nullptr);
    EXPECT_NE(table->f32_to_bf16, nullptr);
  }
  EXPECT_STREQ(available().back()->name, "generic");
}

}  // namespace
}  // namespace autoglm::kernels
