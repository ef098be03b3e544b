# Every third-party library, found once. tools/bootstrap.sh installs them.
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(SENTENCEPIECE REQUIRED IMPORTED_TARGET sentencepiece)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)

if(AUTOGLM_TORCH)
  find_package(CLI11 REQUIRED)
  find_package(yaml-cpp REQUIRED)
  # LibTorch comes with the Python package in .venv; Torch_DIR or CMAKE_PREFIX_PATH may name another.
  if(NOT Torch_DIR AND EXISTS "${CMAKE_SOURCE_DIR}/.venv/bin/python")
    execute_process(COMMAND "${CMAKE_SOURCE_DIR}/.venv/bin/python" -c "import torch; print(torch.utils.cmake_prefix_path)"
                    OUTPUT_VARIABLE torch_prefix OUTPUT_STRIP_TRAILING_WHITESPACE)
    list(APPEND CMAKE_PREFIX_PATH "${torch_prefix}")
  endif()
  find_package(Torch REQUIRED)
endif()

if(AUTOGLM_TESTS)
  find_package(GTest REQUIRED)
endif()
