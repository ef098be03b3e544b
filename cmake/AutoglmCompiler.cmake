# Flags every room is compiled with, and the compiler cache where there is one.
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  # pch_defines and time_macros let ccache serve files that use the precompiled torch header.
  set(CMAKE_CXX_COMPILER_LAUNCHER "${CMAKE_COMMAND}" -E env "CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime" "${CCACHE_PROGRAM}")
endif()

add_library(autoglm_flags INTERFACE)
target_compile_options(autoglm_flags INTERFACE -Wall -Wextra -Wno-missing-field-initializers -fno-math-errno)
if(AUTOGLM_SANITIZE)
  target_compile_options(autoglm_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1)
  target_link_options(autoglm_flags INTERFACE -fsanitize=address,undefined)
endif()
if(AUTOGLM_COVERAGE)
  target_compile_options(autoglm_flags INTERFACE --coverage -fprofile-update=atomic)
  target_link_options(autoglm_flags INTERFACE --coverage)
endif()
