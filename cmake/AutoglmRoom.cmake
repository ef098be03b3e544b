# autoglm_room(core/format LINKS autoglm::base PRIVATE_LINKS nlohmann_json::nlohmann_json [TORCH])
#
# One library per room, made of every .cpp of its folder; `foo_test.cpp` beside `foo.cpp` goes into the room's test
# program. The target of a/b is autoglm_b, its alias autoglm::b. TORCH rooms share one precompiled LibTorch header.
function(autoglm_room folder)
  cmake_parse_arguments(ROOM "TORCH" "" "LINKS;PRIVATE_LINKS;TEST_LINKS" ${ARGN})
  get_filename_component(name "${folder}" NAME)
  set(target "autoglm_${name}")
  set(root "${PROJECT_SOURCE_DIR}/${folder}")

  file(GLOB sources CONFIGURE_DEPENDS "${root}/*.cpp")
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cpp$")
  list(FILTER tests INCLUDE REGEX "_test\\.cpp$")

  if(sources)
    add_library(${target} STATIC ${sources})
    target_link_libraries(${target} PUBLIC ${ROOM_LINKS} PRIVATE ${ROOM_PRIVATE_LINKS} autoglm_flags)
    target_include_directories(${target} PUBLIC "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>"
                                                "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>"
                                                "$<INSTALL_INTERFACE:include>")
    add_library(autoglm::${name} ALIAS ${target})
    set_property(GLOBAL APPEND PROPERTY AUTOGLM_ROOMS ${target})
    if(ROOM_TORCH)
      autoglm_use_torch(${target})
    endif()
  endif()

  if(AUTOGLM_TESTS AND tests)
    add_executable(${target}_test ${tests})
    target_link_libraries(${target}_test PRIVATE autoglm::${name} ${ROOM_PRIVATE_LINKS} ${ROOM_TEST_LINKS} autoglm_flags
                                                 GTest::gmock GTest::gtest GTest::gtest_main)
    target_compile_definitions(${target}_test PRIVATE AUTOGLM_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
    if(ROOM_TORCH)
      autoglm_use_torch(${target}_test)
    endif()
    add_test(NAME ${folder} COMMAND ${target}_test WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
  endif()
endfunction()

# Links LibTorch and reuses one precompiled torch header: compiling it takes half a minute, reading it under a second.
function(autoglm_use_torch target)
  if(NOT TARGET autoglm_torch_pch)
    file(WRITE "${PROJECT_BINARY_DIR}/torch_pch.cpp" "")
    add_library(autoglm_torch_pch OBJECT "${PROJECT_BINARY_DIR}/torch_pch.cpp")
    target_link_libraries(autoglm_torch_pch PUBLIC autoglm_torch PRIVATE autoglm_flags)
    target_precompile_headers(autoglm_torch_pch PRIVATE <torch/torch.h>)
  endif()
  target_link_libraries(${target} PUBLIC autoglm_torch)
  target_precompile_headers(${target} REUSE_FROM autoglm_torch_pch)
endfunction()

if(AUTOGLM_TORCH AND NOT TARGET autoglm_torch)
  add_library(autoglm_torch INTERFACE)
  target_link_libraries(autoglm_torch INTERFACE ${TORCH_LIBRARIES})
  target_include_directories(autoglm_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
  separate_arguments(torch_flags UNIX_COMMAND "${TORCH_CXX_FLAGS}")
  target_compile_options(autoglm_torch INTERFACE ${torch_flags})
  target_link_options(autoglm_torch INTERFACE "-Wl,--no-as-needed")
endif()
