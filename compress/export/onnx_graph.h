#pragma once
/// OnnxGraph: an ONNX graph being put together; every value is named after the node that makes it.
#include <onnx.pb.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace autoglm::exports {

using OnnxAttributes =
    std::vector<std::pair<std::string_view, std::variant<int64_t, float, std::string, std::vector<int64_t>>>>;

/// A dimension: its size, or the name of one that is known at run time alone.
using OnnxDims = std::vector<std::variant<int64_t, std::string>>;

class OnnxGraph {
 public:
  using Values = std::vector<std::string>;

  /// `opset`: at least 13. Nodes take the form they have in it.
  explicit OnnxGraph(int64_t opset) : opset_(opset) {}

  /// Adds a node of ONNX's own operators and returns the name of its output.
  std::string add(std::string_view op, const Values& inputs, const OnnxAttributes& attributes = {});

  /// The same of onnxruntime's operators (domain com.microsoft); further outputs have the names given.
  std::string add_contrib(std::string_view op, const Values& inputs, const OnnxAttributes& attributes = {},
                          const Values& further = {});

  /// A node with `count` outputs.
  Values add_many(std::string_view op, const Values& inputs, int64_t count, const OnnxAttributes& attributes = {});

  /// `x` of one type (onnx::TensorProto::DataType) as another.
  std::string cast(const std::string& x, int32_t from, int32_t to);

  /// ReduceSum, ReduceMean, ReduceMax or ReduceMin of the last dimension, which stays as one of size 1 or goes.
  std::string reduce(std::string_view op, const std::string& x, bool keep = true);

  /// Parts of these sizes along the last dimension.
  Values split(const std::string& input, const std::vector<int64_t>& sizes);

  /// A node whose output has a name of its own, as outputs of the graph have.
  void add_named(std::string_view op, const Values& inputs, const std::string& output,
                 const OnnxAttributes& attributes = {});

  /// Small constants that stand in the graph itself, once for each value. ints: a vector.
  std::string ints(const std::vector<int64_t>& values);
  std::string scalar(int64_t value);
  std::string scalar(float value);
  std::string scalar(float value, int32_t type);  ///< rounded to FLOAT or FLOAT16
  std::string byte(int value);                    ///< UINT8
  std::string signed_byte(int value);             ///< INT8
  std::string floats(const std::vector<float>& values, const std::vector<int64_t>& shape);

  void add_input(const std::string& name, int32_t type, const OnnxDims& dims);
  void add_output(const std::string& name, int32_t type, const OnnxDims& dims);

  /// Nodes from here on are named below it: "/layers.0".
  void set_scope(std::string scope) { scope_ = std::move(scope); }

  /// Notes that something in the graph came with an opset.
  void need(int64_t opset, std::string_view what);
  struct Need {
    int64_t opset = 13;  // scales per axis of DequantizeLinear
    std::string what = "the decoder";
  };
  const Need& needed() const { return needed_; }  ///< the latest of them

  bool has_contrib() const { return has_contrib_; }
  onnx::GraphProto& proto() { return proto_; }

 private:
  onnx::NodeProto& add_node(std::string_view op, const Values& inputs, const OnnxAttributes& attributes);
  std::string add_byte(int32_t type, int value);
  std::string add_constant(const onnx::TensorProto& tensor);

  onnx::GraphProto proto_;
  int64_t opset_;
  Need needed_;
  std::string scope_;
  bool has_contrib_ = false;
  std::vector<std::pair<std::string, std::string>> constants_;  // serialized value, name
};

}  // namespace autoglm::exports
