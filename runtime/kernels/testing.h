#pragma once
/// Random matrices and inputs for the tests of the kernels.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "core/format/quantized_weight.h"
#include "runtime/kernels/kernels.h"

namespace autoglm::kernels::testing {

inline std::vector<float> random_floats(size_t count, unsigned seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& v : values) v = normal(random);
  return values;
}

struct QuantCase {
  int bits;
  bool symmetric;
  int64_t group;  ///< 0: one scale per row, -1: one for the tensor
};

inline format::QuantizedWeight random_weight(const QuantCase& c, int64_t rows, int64_t cols, format::DType scale_dtype,
                                             unsigned seed) {
  format::QuantizedWeight weight;
  weight.args = {.num_bits = c.bits,
                 .symmetric = c.symmetric,
                 .strategy = c.group > 0    ? format::Strategy::kGroup
                             : c.group == 0 ? format::Strategy::kChannel
                                            : format::Strategy::kTensor,
                 .group_size = c.group > 0 ? c.group : 0};
  weight.rows = rows;
  weight.cols = cols;
  weight.scale_dtype = scale_dtype;
  std::mt19937 random(seed);
  const auto any = [&] {
    return static_cast<int8_t>(static_cast<int>(random() % (1u << c.bits)) - (1 << (c.bits - 1)));
  };
  weight.values.resize(static_cast<size_t>(rows * cols));
  for (int8_t& v : weight.values) v = any();
  weight.scales.resize(c.group < 0 ? 1 : static_cast<size_t>(rows * weight.args.groups(cols)));
  std::vector<std::byte> stored(weight.scales.size() * static_cast<size_t>(format::size_of(scale_dtype)));
  for (float& s : weight.scales) s = 0.001f + 0.01f * static_cast<float>(random() % 1000) / 1000;
  format::from_float(scale_dtype, weight.scales, stored);
  format::to_float(scale_dtype, stored, weight.scales);
  if (!c.symmetric) {
    weight.zero_points.resize(weight.scales.size());
    for (int8_t& z : weight.zero_points) z = any();
  }
  return weight;
}

/// The tables to test, with their names in the tests' names.
inline auto every_isa() { return ::testing::ValuesIn(available()); }
inline std::string isa_name(const ::testing::TestParamInfo<const Kernels*>& info) { return info.param->name; }

}  // namespace autoglm::kernels::testing
