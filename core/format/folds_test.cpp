#include "core/format/folds.h"

#include <gmock/gmock.h>

#include <cmath>

#include "core/format/stored_model.h"
#include "core/format/testing.h"
#include "core/format/tiny_models.h"

namespace autoglm::format {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class FoldsTest : public FolderTest {
 protected:
  const StoredModel& model() {
    static const StoredModel stored = StoredModel::open(kTiny / "glm4").value();
    return stored;
  }
  Result<Folds> read() { return Folds::read(folder_, model().layout, model().config); }
  std::vector<FoldPoint> points(int64_t layer = 0) { return fold_points(model().layout, model().config, layer); }
};

TEST_F(FoldsTest, ComeBackFromTheFileAndUndoWhatTheyDid) {
  Folds folds;
  for (const FoldPoint& point : points()) {
    std::vector<float> scales(static_cast<size_t>(point.channels));
    for (size_t i = 0; i < scales.size(); ++i) scales[i] = std::exp2(static_cast<float>(i % 7) - 3);
    folds.add(point, std::move(scales));
  }
  ASSERT_TRUE(folds.write(folder_).ok());
  const auto again = read();
  ASSERT_TRUE(again.ok()) << again.status().message();
  for (const ModuleSpec* module : model().layout.block(0)) {
    const int64_t cols = module->shape.size() == 2 ? module->shape[1] : 1;
    std::vector<float> values(static_cast<size_t>(2 * cols), 3.0F), other = values;
    folds.apply(module->name, 5, cols, values);
    again->apply(module->name, 5, cols, other);
    EXPECT_EQ(values, other) << module->name;
    EXPECT_EQ(folds.changes(module->name), values != std::vector<float>(values.size(), 3.0F)) << module->name;
    again->undo(module->name, 5, cols, values);
    EXPECT_EQ(values, std::vector<float>(values.size(), 3.0F)) << module->name;
  }
}

TEST_F(FoldsTest, QueryHeadsOfOneKeyValueHeadShareScales) {
  const FoldPoint value = points()[1];
  ASSERT_EQ(value.kind, FoldKind::kValue);
  ASSERT_GT(value.copies, 1);
  Folds folds;
  std::vector<float> scales(static_cast<size_t>(value.channels));
  for (size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<float>(i + 1);
  folds.add(value, scales);
  const int64_t cols = value.channels * value.copies;
  std::vector<float> row(static_cast<size_t>(cols), 1.0F);
  folds.apply(value.consumers[0]->name, 0, cols, row);
  for (int64_t c = 0; c < cols; ++c) {
    const int64_t head = c / value.head, kv = head / value.copies;
    EXPECT_EQ(row[static_cast<size_t>(c)], static_cast<float>(kv * value.head + c % value.head + 1)) << c;
  }
  std::vector<float> bias = {6, 6};
  folds.apply(value.producer->name, 1, 1, bias);
  EXPECT_THAT(bias, ElementsAre(3, 2));
}

TEST_F(FoldsTest, NoFileIsNoFolds) {
  const auto none = read();
  ASSERT_TRUE(none.ok());
  EXPECT_TRUE(none->empty());
}

TEST_F(FoldsTest, RefusesWhatIsNoFoldOfTheModel) {
  const FoldPoint norm = points()[0];
  const auto channels = static_cast<size_t>(norm.channels);
  const auto refused = [&](const StoredTensor& tensor, const std::string& part) {
    write(Folds::kFile, safetensors_bytes({tensor}));
    const auto folds = read();
    ASSERT_FALSE(folds.ok()) << part;
    EXPECT_EQ(folds.status().code(), StatusCode::kBadInput);
    EXPECT_THAT(folds.status().message(), AllOf(HasSubstr(Folds::kFile), HasSubstr(part)));
  };
  const std::string name = norm.producer->name;
  std::vector<float> good(channels, 2.0F);
  refused(stored("model.layers.0.nothing", DType::kF32, {norm.channels}, good), "no fold of this model");
  refused(stored(points()[0].consumers[0]->name, DType::kF32, {norm.channels}, good), "no fold of this model");
  refused(stored(name, DType::kF32, {norm.channels - 1}, std::vector<float>(channels - 1, 2.0F)), "numbers");
  refused(stored(name, DType::kF32, {1, norm.channels}, good), "numbers");
  refused(stored(name, DType::kF16, {norm.channels}, std::vector<uint16_t>(channels, 0x4000)), "F32");
  for (const float bad : {0.0F, -1.0F, INFINITY, NAN}) {
    std::vector<float> scales = good;
    scales.back() = bad;
    refused(stored(name, DType::kF32, {norm.channels}, scales), "holds the scale");
  }
  write(Folds::kFile, "no safetensors");
  EXPECT_EQ(read().status().code(), StatusCode::kBadInput);
}

}  // namespace
}  // namespace autoglm::format
