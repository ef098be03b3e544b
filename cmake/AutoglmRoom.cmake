# autoglm_room(core/format LINKS autoglm::base PRIVATE_LINKS nlohmann_json::nlohmann_json [TORCH] [TEST_LINKS …] [SMALL …])
#
# One library per room, made of every .cpp of its folder; `foo_test.cpp` beside `foo.cpp` goes into the room's test
# program. The target of a/b is autoglm_b, its alias (and its name once installed) autoglm::b. TORCH rooms link LibTorch.
# They share one precompiled header, and the other rooms that link nlohmann_json share another: most of the time that a
# file takes to compile goes into these libraries. SMALL names the files of autoglm-edge in which no time is spent, as
# patterns: a release has them half as large. tests/rooms/rooms.txt says what a room may link.
function(autoglm_room folder)
  cmake_parse_arguments(ROOM "TORCH" "" "LINKS;PRIVATE_LINKS;TEST_LINKS;SMALL" ${ARGN})
  get_filename_component(name "${folder}" NAME)
  set(target "autoglm_${name}")
  set(root "${PROJECT_SOURCE_DIR}/${folder}")

  file(GLOB sources CONFIGURE_DEPENDS "${root}/*.cpp")
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cpp$")
  list(FILTER tests INCLUDE REGEX "_test\\.cpp$")

  if(sources)
    add_library(${target} STATIC ${sources})
    target_link_libraries(${target} PUBLIC ${ROOM_LINKS} PRIVATE ${ROOM_PRIVATE_LINKS} $<BUILD_INTERFACE:autoglm_flags>)
    set(scope PUBLIC)
  else()  # headers alone
    add_library(${target} INTERFACE)
    target_link_libraries(${target} INTERFACE ${ROOM_LINKS})
    set(scope INTERFACE)
  endif()
  target_include_directories(${target} ${scope} "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>"
                                                "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>"
                                                "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>"
                                                "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/open-autoglm>")
  add_library(autoglm::${name} ALIAS ${target})
  autoglm_install_room(${target} "${folder}")
  if(ROOM_SMALL AND CMAKE_BUILD_TYPE STREQUAL "Release")
    list(TRANSFORM ROOM_SMALL PREPEND "${root}/")
    file(GLOB small CONFIGURE_DEPENDS ${ROOM_SMALL})
    list(FILTER small EXCLUDE REGEX "_test\\.cpp$")
    # The precompiled header is for files that are optimized for speed.
    set_source_files_properties(${small} TARGET_DIRECTORY ${target} PROPERTIES COMPILE_OPTIONS -Os
                                                                               SKIP_PRECOMPILE_HEADERS ON)
  endif()
  if(ROOM_TORCH)
    autoglm_use_torch(${target} ${scope})
  elseif("nlohmann_json::nlohmann_json" IN_LIST ROOM_PRIVATE_LINKS)
    autoglm_precompile(${target} autoglm_json_pch "")
  endif()

  if(AUTOGLM_TESTS AND tests)
    add_executable(${target}_test ${tests})
    target_link_libraries(${target}_test PRIVATE autoglm::${name} ${ROOM_PRIVATE_LINKS} ${ROOM_TEST_LINKS} autoglm_flags
                                                 GTest::gmock GTest::gtest GTest::gtest_main)
    target_compile_definitions(${target}_test PRIVATE AUTOGLM_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
    # What they test is optimized; the tests themselves are a third of what there is to compile.
    autoglm_compile_quickly(${target}_test)
    if(ROOM_TORCH)
      autoglm_use_torch(${target}_test PRIVATE)
    elseif("nlohmann_json::nlohmann_json" IN_LIST ROOM_PRIVATE_LINKS)
      autoglm_precompile(${target}_test autoglm_json_test_pch "<gmock/gmock.h>;<gtest/gtest.h>" QUICKLY
                         GTest::gmock GTest::gtest)
    endif()
    add_test(NAME ${folder} COMMAND ${target}_test WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
  endif()
endfunction()

# Gives `target` the precompiled header of the target `pch`, made on the first call: {fmt}, nlohmann/json and `headers`,
# for which it links what else is named. QUICKLY, SMALL: for targets that autoglm_compile_quickly or _small is for.
function(autoglm_precompile target pch headers)
  cmake_parse_arguments(PCH "QUICKLY;SMALL" "" "" ${ARGN})
  if(NOT TARGET ${pch})
    file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/${pch}.cpp" CONTENT "")
    add_library(${pch} OBJECT "${PROJECT_BINARY_DIR}/${pch}.cpp")
    target_link_libraries(${pch} PRIVATE fmt::fmt nlohmann_json::nlohmann_json autoglm_flags ${PCH_UNPARSED_ARGUMENTS})
    if(PCH_QUICKLY)
      autoglm_compile_quickly(${pch})
    elseif(PCH_SMALL)
      autoglm_compile_small(${pch})
    endif()
    target_precompile_headers(${pch} PRIVATE <fmt/format.h> <nlohmann/json.hpp> ${headers})
    if(NOT TARGET autoglm_pch)  # all of them, for clang-tidy
      add_custom_target(autoglm_pch)
    endif()
    add_dependencies(autoglm_pch ${pch})
  endif()
  target_precompile_headers(${target} REUSE_FROM ${pch})
endfunction()

# For the programs, in which no time is spent: their files, of which each would compile the whole of CLI11 again, are
# compiled as one, and to be small.
function(autoglm_use_cli target)
  autoglm_precompile(${target} autoglm_cli_pch "<CLI/CLI.hpp>" SMALL CLI11::CLI11)
  autoglm_compile_small(${target})
  autoglm_compile_together(${target} 0)
endfunction()

# Compiles the files of a target as one for every `count` of them (0: all). A file with torch costs 7 s whatever is in
# it: GCC 12 instantiates what the precompiled header left open in each.
function(autoglm_compile_together target count)
  set_target_properties(${target} PROPERTIES UNITY_BUILD ${AUTOGLM_UNITY} UNITY_BUILD_BATCH_SIZE ${count})
endfunction()

# For targets in which no time is spent. With sanitizers, optimizing would take half of the time to compile; where there
# is LibTorch, its precompiled header is for one level.
function(autoglm_compile_quickly target)
  if(AUTOGLM_SANITIZE AND NOT AUTOGLM_TORCH)
    target_compile_options(${target} PRIVATE -O0)
  else()
    target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)
  endif()
endfunction()

# The same, where a release is to be small as well.
function(autoglm_compile_small target)
  if(CMAKE_BUILD_TYPE STREQUAL "Release")
    target_compile_options(${target} PRIVATE -Os)
  else()
    autoglm_compile_quickly(${target})
  endif()
endfunction()

# at::parallel_for is compiled into its callers, and without OpenMP into a plain loop; the runtime is LibTorch's own.
function(autoglm_use_torch target scope)
  target_link_libraries(${target} ${scope} autoglm::torch)
  if(NOT scope STREQUAL "INTERFACE")
    autoglm_precompile(${target} autoglm_torch_pch "<ATen/ATen.h>" autoglm::torch)
    if(OpenMP_CXX_FOUND)
      target_compile_options(${target} PRIVATE ${OpenMP_CXX_FLAGS})
      target_compile_options(autoglm_torch_pch PRIVATE ${OpenMP_CXX_FLAGS})
    endif()
    autoglm_compile_together(${target} 4)
  endif()
endfunction()
