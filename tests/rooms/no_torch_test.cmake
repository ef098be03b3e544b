# FILE: the build's own list of commands.
file(STRINGS "${FILE}" lines REGEX "libtorch|libc10|/torch/include|torch/torch\\.h|autoglm_tensor")
if(lines)
  list(GET lines 0 first)
  message(FATAL_ERROR "a build without LibTorch names it: ${first}")
endif()
