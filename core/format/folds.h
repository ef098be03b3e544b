#pragma once
/// Folds: where a scale can move from the columns of what reads a channel into the rows of what produces it without
/// changing what a block computes, and the scales that moved in one artifact (docs/FORMATS.md, folds.st).
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/format/model_config.h"
#include "core/format/tensor_layout.h"

namespace autoglm::format {

enum class FoldKind { kInputNorm, kValue, kMlpNorm, kUp };
std::string_view to_string(FoldKind kind);  ///< "input_norm", "value", ...

/// One place for scales s [channels], in a layer:
///   kInputNorm  input norm -> q, k, v
///   kValue      rows of v -> columns of o; query heads of one key-value head read the same channels
///   kMlpNorm    MLP norm -> every gate and up of the layer, and the router
///   kUp         rows of up (the lower half of a fused gate_up) -> columns of down, for each MLP and expert
/// Nothing moves into q and k, which norms and rotary positions follow, nor into the sandwich norms, whose input no
/// scale of theirs can undo. Elementwise products make kUp exact: silu(g) * (u / s) = (silu(g) * u) / s.
struct FoldPoint {
  FoldKind kind = FoldKind::kInputNorm;
  const ModuleSpec* producer = nullptr;      ///< rows [first_row, first_row + channels) and their bias are divided by s
  std::vector<const ModuleSpec*> consumers;  ///< column c is multiplied by s[channel_of(c)]
  int64_t first_row = 0, channels = 0;
  int64_t head = 0;    ///< channels that repeat together: head_dim for kValue, else all
  int64_t copies = 1;  ///< how often: query heads for each key-value head

  int64_t channel_of(int64_t column) const { return column / (head * copies) * head + column % head; }
};

/// The fold points of a layer, in the order in which their channels are computed; the same whatever names and fusions
/// the layout has. Their pointers live as long as the layout.
std::vector<FoldPoint> fold_points(const TensorLayout& layout, const ModelConfig& config, int64_t layer);

/// The scales that were folded in an artifact, by the names of its modules.
class Folds {
 public:
  /// A safetensors file whose name no loader's pattern for weights matches.
  static constexpr const char* kFile = "folds.st";

  /// Of the artifact `folder` with this layout; no folds where it has no such file. kBadInput: no safetensors file, a
  /// tensor that belongs to no fold point or is not float32 [channels], a scale that is not finite and above zero.
  static Result<Folds> read(const std::filesystem::path& folder, const TensorLayout& layout, const ModelConfig& config);

  /// Writes the file into `folder`, which must not have one. kResourceExhausted: disk.
  Status write(const std::filesystem::path& folder) const;

  void add(const FoldPoint& point, std::vector<float> scales);
  void merge(const Folds& other);  ///< of other places
  bool empty() const { return scales_.empty(); }

  /// What was folded at the point with this producer, [channels]; empty: nothing.
  std::span<const float> at(const std::string& producer) const;

  /// Values of a module of the source, rows [first, ..) of `cols` numbers each (1: its bias, or a norm), become those
  /// that the artifact stands for; `undo` is the way back. What was not folded is left as it is.
  void apply(const std::string& module, int64_t first, int64_t cols, std::span<float> rows) const;
  void undo(const std::string& module, int64_t first, int64_t cols, std::span<float> rows) const;
  bool changes(const std::string& module) const { return rows_.contains(module) || columns_.contains(module); }

 private:
  using Factors = std::shared_ptr<const std::vector<float>>;
  template <typename Scale>
  void scale(const std::string& module, int64_t first, int64_t cols, std::span<float> rows, Scale scale) const;

  std::map<std::string, Factors> scales_;          // as stored, by producer
  std::map<std::string, Factors> rows_, columns_;  // of each module: divided by, multiplied by
};

}  // namespace autoglm::format
