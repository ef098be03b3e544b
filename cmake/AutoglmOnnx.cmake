# onnx_proto: the C++ classes of onnx.proto, which comes with the Python package `onnx` of .venv; ONNX_PROTO may
# name another.
#
# libsentencepiece and LibTorch carry protobufs of their own, of other releases, whose names are the same. Ours is
# therefore linked as an archive and kept out of a program's dynamic symbols: what a program exports stands in for what
# libraries have, and a sentencepiece that meets another release's protobuf refuses to work.
file(GLOB onnx_in_venv "${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/onnx")
find_file(ONNX_PROTO onnx.proto HINTS ${onnx_in_venv} REQUIRED)
set(onnx_generated "${PROJECT_BINARY_DIR}/onnx_proto")
file(MAKE_DIRECTORY "${onnx_generated}")
get_filename_component(onnx_folder "${ONNX_PROTO}" DIRECTORY)
add_custom_command(OUTPUT "${onnx_generated}/onnx.pb.cc" "${onnx_generated}/onnx.pb.h"
                   COMMAND protobuf::protoc "--cpp_out=lite:${onnx_generated}" "--proto_path=${onnx_folder}" "${ONNX_PROTO}"
                   DEPENDS "${ONNX_PROTO}" VERBATIM)
add_library(onnx_proto STATIC "${onnx_generated}/onnx.pb.cc" "${onnx_generated}/onnx.pb.h")
target_link_libraries(onnx_proto PUBLIC protobuf::libprotobuf-lite)
target_link_options(onnx_proto INTERFACE "LINKER:--exclude-libs,libprotobuf-lite.a:libonnx_proto.a:libautoglm_export.a")
target_include_directories(onnx_proto SYSTEM PUBLIC "$<BUILD_INTERFACE:${onnx_generated}>"
                                                    "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/open-autoglm>")
add_dependencies(autoglm_pch onnx_proto)  # clang-tidy reads onnx.pb.h too
install(TARGETS onnx_proto EXPORT open-autoglm ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES "${onnx_generated}/onnx.pb.h" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/open-autoglm")
