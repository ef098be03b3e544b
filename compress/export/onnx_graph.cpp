#include "compress/export/onnx_graph.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "core/format/dtype.h"

namespace autoglm::exports {
namespace {

struct SetAttribute {
  onnx::AttributeProto& out;
  void operator()(int64_t value) const { out.set_type(onnx::AttributeProto::INT), out.set_i(value); }
  void operator()(float value) const { out.set_type(onnx::AttributeProto::FLOAT), out.set_f(value); }
  void operator()(const std::string& value) const { out.set_type(onnx::AttributeProto::STRING), out.set_s(value); }
  void operator()(const std::vector<int64_t>& values) const {
    out.set_type(onnx::AttributeProto::INTS);
    for (const int64_t value : values) out.add_ints(value);
  }
};

void set_value(onnx::ValueInfoProto& out, const std::string& name, int32_t type, const OnnxDims& dims) {
  out.set_name(name);
  auto& tensor = *out.mutable_type()->mutable_tensor_type();
  tensor.set_elem_type(type);
  for (const auto& dim : dims) {
    auto& one = *tensor.mutable_shape()->add_dim();
    if (const auto* size = std::get_if<int64_t>(&dim)) {
      one.set_dim_value(*size);
    } else {
      one.set_dim_param(std::get<std::string>(dim));
    }
  }
}

}  // namespace

onnx::NodeProto& OnnxGraph::add_node(std::string_view op, const Values& inputs, const OnnxAttributes& attributes) {
  onnx::NodeProto& node = *proto_.add_node();
  node.set_op_type(std::string(op));
  node.set_name(fmt::format("{}/{}_{}", scope_, op, proto_.node_size()));
  for (const std::string& input : inputs) node.add_input(input);
  for (const auto& [name, value] : attributes) {
    onnx::AttributeProto& attribute = *node.add_attribute();
    attribute.set_name(std::string(name));
    std::visit(SetAttribute{attribute}, value);
  }
  return node;
}

std::string OnnxGraph::add(std::string_view op, const Values& inputs, const OnnxAttributes& attributes) {
  onnx::NodeProto& node = add_node(op, inputs, attributes);
  node.add_output(node.name() + "_output");
  return node.output(0);
}

std::string OnnxGraph::add_contrib(std::string_view op, const Values& inputs, const OnnxAttributes& attributes,
                                   const Values& further) {
  onnx::NodeProto& node = add_node(op, inputs, attributes);
  node.set_domain("com.microsoft");
  node.add_output(node.name() + "_output");
  for (const std::string& name : further) node.add_output(name);
  has_contrib_ = true;
  return node.output(0);
}

OnnxGraph::Values OnnxGraph::add_many(std::string_view op, const Values& inputs, int64_t count,
                                      const OnnxAttributes& attributes) {
  onnx::NodeProto& node = add_node(op, inputs, attributes);
  for (int64_t i = 0; i < count; ++i) node.add_output(fmt::format("{}_output_{}", node.name(), i));
  return {node.output().begin(), node.output().end()};
}

std::string OnnxGraph::cast(const std::string& x, int32_t from, int32_t to) {
  return from == to ? x : add("Cast", {x}, {{"to", int64_t{to}}});
}

std::string OnnxGraph::reduce(std::string_view op, const std::string& x, bool keep) {
  constexpr int64_t kAxesAreInput = 18;  // since 13 for ReduceSum
  OnnxAttributes attributes = {{"keepdims", int64_t{keep}}};
  if (op == "ReduceSum" || opset_ >= kAxesAreInput) return add(op, {x, ints({-1})}, attributes);
  attributes.emplace_back("axes", std::vector<int64_t>{-1});
  return add(op, {x}, attributes);
}

void OnnxGraph::need(int64_t opset, std::string_view what) {
  if (opset > needed_.opset) needed_ = {opset, std::string(what)};
}

OnnxGraph::Values OnnxGraph::split(const std::string& input, const std::vector<int64_t>& sizes) {
  if (sizes.size() == 1) return {input};
  return add_many("Split", {input, ints(sizes)}, std::ssize(sizes), {{"axis", int64_t{-1}}});
}

void OnnxGraph::add_named(std::string_view op, const Values& inputs, const std::string& output,
                          const OnnxAttributes& attributes) {
  add_node(op, inputs, attributes).add_output(output);
}

std::string OnnxGraph::add_constant(const onnx::TensorProto& tensor) {
  const std::string key = tensor.SerializeAsString();
  const auto known =
      std::find_if(constants_.begin(), constants_.end(), [&](const auto& one) { return one.first == key; });
  if (known != constants_.end()) return known->second;
  constants_.emplace_back(key, fmt::format("constant_{}", constants_.size()));
  onnx::TensorProto& added = *proto_.add_initializer();
  added = tensor;
  added.set_name(constants_.back().second);
  return added.name();
}

std::string OnnxGraph::ints(const std::vector<int64_t>& values) {
  onnx::TensorProto tensor;
  tensor.set_data_type(onnx::TensorProto::INT64);
  tensor.add_dims(static_cast<int64_t>(values.size()));
  for (const int64_t value : values) tensor.add_int64_data(value);
  return add_constant(tensor);
}

std::string OnnxGraph::scalar(int64_t value) {
  onnx::TensorProto tensor;
  tensor.set_data_type(onnx::TensorProto::INT64);
  tensor.add_int64_data(value);
  return add_constant(tensor);
}

std::string OnnxGraph::scalar(float value) { return floats({value}, {}); }

std::string OnnxGraph::scalar(float value, int32_t type) {
  if (type == onnx::TensorProto::FLOAT) return scalar(value);
  uint16_t bits = 0;
  format::from_float(format::DType::kF16, {&value, 1}, std::as_writable_bytes(std::span(&bits, 1)));
  onnx::TensorProto tensor;
  tensor.set_data_type(type);
  tensor.add_int32_data(bits);
  return add_constant(tensor);
}

std::string OnnxGraph::byte(int value) { return add_byte(onnx::TensorProto::UINT8, value); }

std::string OnnxGraph::signed_byte(int value) { return add_byte(onnx::TensorProto::INT8, value); }

std::string OnnxGraph::add_byte(int32_t type, int value) {
  onnx::TensorProto tensor;
  tensor.set_data_type(type);
  tensor.add_int32_data(value);
  return add_constant(tensor);
}

std::string OnnxGraph::floats(const std::vector<float>& values, const std::vector<int64_t>& shape) {
  onnx::TensorProto tensor;
  tensor.set_data_type(onnx::TensorProto::FLOAT);
  for (const int64_t size : shape) tensor.add_dims(size);
  for (const float value : values) tensor.add_float_data(value);
  return add_constant(tensor);
}

void OnnxGraph::add_input(const std::string& name, int32_t type, const OnnxDims& dims) {
  set_value(*proto_.add_input(), name, type, dims);
}

void OnnxGraph::add_output(const std::string& name, int32_t type, const OnnxDims& dims) {
  set_value(*proto_.add_output(), name, type, dims);
}

}  // namespace autoglm::exports
