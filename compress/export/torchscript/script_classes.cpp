#include "compress/export/torchscript/script_classes.h"

namespace autoglm::exports {

torch::jit::Module ScriptClasses::make(const std::string& class_name, const std::string& source,
                                       const std::vector<ScriptAttribute>& attributes) {
  std::string key = class_name + '\n' + source;
  for (const ScriptAttribute& one : attributes) key += '\n' + one.name + ": " + one.value.type()->repr_str();
  if (const auto found = known_.find(key); found != known_.end()) {
    torch::jit::Module module(unit_, found->second);
    module.setattr("training", false);
    for (const ScriptAttribute& one : attributes) module.setattr(one.name, one.value);
    return module;
  }
  torch::jit::Module module("__torch__." + class_name, unit_, /*shouldMangle=*/true);
  module.register_attribute("training", c10::BoolType::get(), false);
  for (const ScriptAttribute& one : attributes) {
    const bool is_tensor = one.value.isTensor();
    const c10::TypePtr type = is_tensor ? c10::TypePtr(c10::TensorType::get()) : one.value.type();
    module.register_attribute(one.name, type, one.value, /*is_param=*/false, /*is_buffer=*/is_tensor);
  }
  module.define(source);
  known_.emplace(std::move(key), module.type());
  return module;
}

}  // namespace autoglm::exports
