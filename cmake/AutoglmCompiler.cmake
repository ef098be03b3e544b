# Flags every room is compiled with, and the compiler cache where there is one.
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  # ccache serves files that use the precompiled torch header only when it may trust defines and times of that header.
  # Paths below the sources are taken relative to the build folder, so that one preset serves another with equal flags.
  set(CMAKE_CXX_COMPILER_LAUNCHER "${CMAKE_COMMAND}" -E env "CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}"
      "CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime" "${CCACHE_PROGRAM}")
endif()

add_library(autoglm_flags INTERFACE)
# -fPIC for programs too (CMake would say -fPIE): the precompiled header serves only files with the same flags.
target_compile_options(autoglm_flags INTERFACE -Wall -Wextra -Wno-missing-field-initializers -fno-math-errno
                       -fno-trapping-math -fPIC
                       -ffunction-sections -fdata-sections  # for autoglm-edge, which keeps what is called
                       # GCC 12 is wrong about optional and variant at -O3, and about "literal" + std::string.
                       $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized -Wno-restrict
                                                       -Wno-stringop-overflow -Wno-stringop-overread
                                                       -Wno-array-bounds>)
if(AUTOGLM_SANITIZE STREQUAL "address")
  set(sanitizers -fsanitize=address,undefined -fno-sanitize-recover=undefined)
elseif(AUTOGLM_SANITIZE STREQUAL "thread")
  set(sanitizers -fsanitize=thread)
elseif(AUTOGLM_SANITIZE)
  message(FATAL_ERROR "AUTOGLM_SANITIZE is ${AUTOGLM_SANITIZE}: address or thread")
endif()
if(sanitizers)
  target_compile_options(autoglm_flags INTERFACE ${sanitizers} -fno-omit-frame-pointer -g1)
  target_link_options(autoglm_flags INTERFACE ${sanitizers})
endif()
if(AUTOGLM_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "AUTOGLM_FUZZ needs clang (libFuzzer): use the preset `fuzz`")
  endif()
  target_compile_options(autoglm_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
if(AUTOGLM_COVERAGE)
  # Some optimization, and counters that threads may lose a step of: the suite must end, lines keep their place, and a
  # line's count matters only where it is none.
  target_compile_options(autoglm_flags INTERFACE --coverage -fprofile-update=single -O1)
  target_link_options(autoglm_flags INTERFACE --coverage)
endif()
