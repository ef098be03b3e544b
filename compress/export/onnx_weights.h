#pragma once
/// OnnxWeights: the weights of a model as tensors of an ONNX file, and the nodes that compute with them.
///
/// Integers stay integers and scales keep their type:
///   qdq           DequantizeLinear before MatMul, weights [in, out]; onnxruntime makes MatMulNBits of the pair
///   matmul-nbits  onnxruntime's MatMulNBits where its block sizes allow, else as qdq
/// Values of 1 and 2 bits are held as INT2, of 3 and 4 as INT4, of 5 to 8 as INT8; what would not fill whole bytes, as
/// INT8. Activations: static scales become a QuantizeLinear/DequantizeLinear pair; those found for each token become
/// their arithmetic, with MatMulInteger where weights of over 4 bits have one scale per row.
/// Integers of an embedding are gathered before they become floats, those below 8 bits from packed bytes.
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "compress/export/onnx_file.h"
#include "compress/export/onnx_graph.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/stored_model.h"
#include "core/format/weight_rows.h"

namespace autoglm::exports {

/// What a graph is for.
struct OnnxTarget {
  int32_t compute = 1;            ///< onnx::TensorProto::FLOAT or FLOAT16: products and what lies between them
  bool matmul_nbits = false;      ///< onnxruntime's own: MatMulNBits where weights alone are quantized, attention
  bool unsigned_inputs = false;   ///< quantized activations are UINT8, the same values above another zero point
  bool unsigned_weights = false;  ///< and so are the weights that they are multiplied with
  bool tensorrt = false;          ///< by TensorRT's rules of explicit quantization (tensorrt.h)
};

class OnnxWeights {
 public:
  /// kBadInput: activations quantized in a way that is not written (named), or a tensor of a quantized weight that is
  /// missing or does not fit. kInvalidArgument: what TensorRT's rules do not have (named). `model` must outlive the
  /// result.
  static Result<OnnxWeights> plan(const format::StoredModel& model, const OnnxTarget& target);

  const OnnxTarget& target() const { return target_; }

  /// The nodes that give the embedding of `ids` [batch, sequence], and `x` [.., in] times a matrix, with its bias:
  /// names of values of the type that is computed in (of a router, where small differences choose experts, in float32);
  /// and a vector (a norm's weight) in float32.
  std::string embed(OnnxGraph& graph, const std::string& ids);
  std::string linear(OnnxGraph& graph, const format::ModuleSpec& module, const std::string& x);
  std::string vector(OnnxGraph& graph, const format::ModuleSpec& module,
                     format::Member member = format::Member::kWeight);

  const std::vector<OnnxTensor>& tensors() const { return tensors_; }
  /// For each linear, the value that it reads.
  const std::map<std::string, std::string>& inputs() const { return values_read_; }
  int64_t widened() const { return widened_; }  ///< matrices whose integers are held in more bits than they have

  /// Streams all tensors into the file, and compares what is read back with the model, value by value; what scales that
  /// became FLOAT16 moved a weight by at most, as a share of itself.
  Status write(OnnxFile& file, CancelToken& cancel) const;
  Result<double> read_back(const OnnxFile& file, CancelToken& cancel) const;

 private:
  struct FloatItem {
    const format::ModuleSpec* module;
    format::Member member;
    size_t tensor;
  };
  struct QuantizedItem {
    const format::ModuleSpec* module;
    int64_t block;  ///< columns that share a scale of the file
    size_t values = 0, scales = 0;
    std::optional<size_t> zeros;
  };
  struct QuantizedInput {  // of one value by one way of quantizing
    std::string x;
    format::InputQuant quant;
    bool is_pair = false;  ///< integers are INT8, as QuantizeLinear gives them; else they are floats
    std::string integers;
    std::string scale, zero;
    std::string floats;  ///< what they stand for; "" until asked for
  };

  OnnxWeights(const format::StoredModel& model, const OnnxTarget& target) : model_(&model), target_(target) {}
  int32_t compute() const { return target_.compute; }
  size_t add_tensor(OnnxTensor tensor);
  void add_quantized(QuantizedItem item, OnnxTensor values, OnnxTensor scales);
  size_t add_float(const format::ModuleSpec& module, format::Member member, bool transposed);
  int container(const format::QuantArgs& args, int64_t run);
  std::string quantized_embedding(OnnxGraph& graph, const format::QuantArgs& args, const std::string& ids);
  enum class Side { kRows, kColumns };  // which the file's first dimension is
  std::string dequantized(OnnxGraph& graph, const format::ModuleSpec& module, const std::string& name,
                          const format::QuantArgs& args, Side side, bool is_unsigned = false);
  std::string matmul_nbits(OnnxGraph& graph, const format::ModuleSpec& module, const format::QuantArgs& args,
                           const std::string& x);
  std::string integer_matmul(OnnxGraph& graph, const format::ModuleSpec& module, const format::QuantArgs& args,
                             const QuantizedInput& input);
  QuantizedInput& quantized(OnnxGraph& graph, const std::string& x, const format::InputQuant& quant);
  std::string floats_of(OnnxGraph& graph, QuantizedInput& input);
  OnnxTensor scale_tensor(const format::ModuleSpec& module, const std::string& name,
                          const format::QuantArgs& args) const;
  format::DType scale_dtype(const format::ModuleSpec& module) const;
  Status check_scales(const format::QuantizedWeight& weight) const;
  Status write_item(OnnxFile& file, const QuantizedItem& item, int64_t first, int64_t count) const;
  Result<double> compare_item(const OnnxFile& file, const QuantizedItem& item, int64_t first, int64_t count) const;
  template <typename Work>
  Status for_each_piece(const char* what, CancelToken& cancel, const Work& work) const;

  const format::StoredModel* model_;
  OnnxTarget target_;
  std::map<const format::ModuleSpec*, format::InputQuant> inputs_;
  std::vector<OnnxTensor> tensors_;
  std::vector<FloatItem> floats_;
  std::vector<QuantizedItem> quantized_;
  std::vector<QuantizedInput> quantized_inputs_;
  std::map<std::string, std::string> values_read_;
  int64_t widened_ = 0;
};

}  // namespace autoglm::exports
