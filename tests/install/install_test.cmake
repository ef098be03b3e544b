# BUILD: the build folder to install; SOURCE: this folder; TORCH, Torch_DIR, CXX: as that build has them.
function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

set(folder "${BUILD}/install_test")
file(REMOVE_RECURSE "${folder}")
run(${CMAKE_COMMAND} --install "${BUILD}" --prefix "${folder}/prefix")
run(${CMAKE_COMMAND} -G Ninja -S "${SOURCE}/consumer" -B "${folder}/build" -DCMAKE_BUILD_TYPE=Release
    "-DCMAKE_CXX_COMPILER=${CXX}" "-DCMAKE_PREFIX_PATH=${folder}/prefix" "-DTorch_DIR=${Torch_DIR}"
    "-DCONSUME_API=${TORCH}")
run(${CMAKE_COMMAND} --build "${folder}/build")
run("${folder}/build/core_consumer")
run("${folder}/build/engine_consumer" "${SOURCE}/../data/tiny/glm")
run("${folder}/prefix/bin/autoglm-edge" version)
if(TORCH)
  run("${folder}/build/api_consumer" "${SOURCE}/../data/tiny/glm")
  run("${folder}/prefix/bin/autoglm" version)
endif()
file(REMOVE_RECURSE "${folder}")
