#pragma once
/// Version of the library, "MAJOR.MINOR.PATCH", and what it was built with.
#include <string>

namespace autoglm {

std::string version();        ///< "0.1.0"
std::string torch_version();  ///< the LibTorch in use, "2.13.0"

}  // namespace autoglm
