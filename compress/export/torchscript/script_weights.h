#pragma once
/// ScriptWeights: linears, embedding and vectors of a model as TorchScript modules over the artifact's own bytes.
#include <torch/csrc/jit/api/module.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "compress/export/torchscript/script_classes.h"
#include "core/base/status.h"
#include "core/format/stored_model.h"
#include "core/format/weight_rows.h"

namespace autoglm::exports {

/// A tensor of the program that lies in the model's mapped files.
struct MappedTensor {
  std::string name;  ///< in the checkpoint
  std::span<const std::byte> bytes;
};

class ScriptWeights {
 public:
  /// kBadInput: activations quantized in a way that is not written (named), or a tensor of a quantized weight that is
  /// missing or does not fit. `model` and `classes` must outlive the result.
  static Result<ScriptWeights> plan(const format::StoredModel& model, ScriptClasses& classes);

  /// Float vectors and matrices as they are stored.
  at::Tensor tensor(const format::ModuleSpec& module, format::Member member = format::Member::kWeight);

  /// forward(x: Tensor) -> Tensor, with the bias: FLOAT [.., in] -> [.., out].
  torch::jit::Module linear(const format::ModuleSpec& module);

  /// forward(ids: Tensor) -> Tensor: INT64 [batch, sequence] -> FLOAT [batch, sequence, hidden]; and, for a head that
  /// is tied to it, head(x: Tensor) -> Tensor.
  torch::jit::Module embedding();

  const std::map<const void*, MappedTensor>& tensors() const { return tensors_; }  ///< by where they lie
  int64_t quantized() const { return quantized_; }
  int64_t integer_products() const { return integer_products_; }

 private:
  ScriptWeights(const format::StoredModel& model, ScriptClasses& classes) : model_(&model), classes_(&classes) {}
  at::Tensor map_tensor(const std::string& name, bool as_bytes = false);
  bool stores_packed(const format::ModuleSpec& module) const;
  std::string quantized_source(const format::ModuleSpec& module, const format::QuantArgs& args,
                               std::vector<ScriptAttribute>& attributes);

  const format::StoredModel* model_;
  ScriptClasses* classes_;
  std::map<const format::ModuleSpec*, format::InputQuant> inputs_;
  std::map<std::string, at::Tensor> known_;
  std::map<const void*, MappedTensor> tensors_;
  int64_t quantized_ = 0, integer_products_ = 0;
};

}  // namespace autoglm::exports
