#include "compress/export/tensorrt_engine.h"

namespace autoglm::exports {

Status check_tensorrt_engine() {
  return invalid_argument(
      "this build has no TensorRT: install its headers (NvInfer.h, NvOnnxParser.h; Debian packages libnvinfer-dev and "
      "libnvonnxparsers-dev of NVIDIA's repository) and build again, or leave --engine out and run trtexec on the "
      "folder");
}

Status build_tensorrt_engine(const std::filesystem::path&, std::span<const TensorRtProfile>, bool, bool) {
  return check_tensorrt_engine();
}

}  // namespace autoglm::exports
