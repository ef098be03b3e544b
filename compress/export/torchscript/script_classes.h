#pragma once
/// ScriptClasses: TorchScript modules by their source; those of the same source and attributes share one class, which
/// is compiled and stored once.
#include <torch/csrc/jit/api/module.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace autoglm::exports {

struct ScriptAttribute {
  std::string name;
  c10::IValue value;  ///< a tensor (a buffer then), a module's object, a float
};

class ScriptClasses {
 public:
  /// `source`: the methods, in TorchScript. Throws what PyTorch throws when it does not compile.
  torch::jit::Module make(const std::string& class_name, const std::string& source,
                          const std::vector<ScriptAttribute>& attributes);

 private:
  std::shared_ptr<torch::jit::CompilationUnit> unit_ = std::make_shared<torch::jit::CompilationUnit>();
  std::map<std::string, c10::ClassTypePtr> known_;
};

}  // namespace autoglm::exports
