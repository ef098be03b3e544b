# Every third-party library, found once. Installed too: the exported package reads it to find the same libraries again.
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET GLOBAL libpcre2-8)
pkg_check_modules(SENTENCEPIECE REQUIRED IMPORTED_TARGET GLOBAL sentencepiece)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET GLOBAL libutf8proc)

if(AUTOGLM_EXPORT)
  find_package(Protobuf REQUIRED)
  find_package(CURL REQUIRED)
endif()
if(AUTOGLM_TORCH)
  find_package(yaml-cpp REQUIRED)
  find_package(Torch REQUIRED)
endif()

if(AUTOGLM_TORCH AND NOT TARGET autoglm::torch)
  # One imported target in place of Torch's variables. Torch's own targets bring some of its folders as ordinary
  # include folders; SYSTEM keeps its warnings out of ours.
  add_library(autoglm::torch INTERFACE IMPORTED GLOBAL)
  target_link_libraries(autoglm::torch INTERFACE ${TORCH_LIBRARIES})
  target_include_directories(autoglm::torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
  # LibTorch brings headers of its own {fmt}, which must not hide those of the fmt that we link.
  get_target_property(fmt_include_dir fmt::fmt INTERFACE_INCLUDE_DIRECTORIES)
  file(MAKE_DIRECTORY "${PROJECT_BINARY_DIR}/include_first")
  file(CREATE_LINK "${fmt_include_dir}/fmt" "${PROJECT_BINARY_DIR}/include_first/fmt" SYMBOLIC)
  target_include_directories(autoglm::torch BEFORE INTERFACE "${PROJECT_BINARY_DIR}/include_first")
  separate_arguments(autoglm_torch_flags UNIX_COMMAND "${TORCH_CXX_FLAGS}")
  target_compile_options(autoglm::torch INTERFACE ${autoglm_torch_flags})
  target_link_options(autoglm::torch INTERFACE "-Wl,--no-as-needed")
endif()
