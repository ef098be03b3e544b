#include <autoglm/version.h>
#include <torch/version.h>

namespace autoglm {

std::string version() { return AUTOGLM_VERSION; }
std::string torch_version() { return TORCH_VERSION; }

}  // namespace autoglm
