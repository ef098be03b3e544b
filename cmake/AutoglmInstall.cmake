# Install rules and the exported CMake package: after find_package(open-autoglm), autoglm::api (where LibTorch is) and
# the rooms below it can be linked. Public headers go to include/autoglm; the rooms' own, which promise no stability, to
# include/open-autoglm.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(AUTOGLM_PACKAGE_DIR "${CMAKE_INSTALL_LIBDIR}/cmake/open-autoglm")

# Called by autoglm_room.
function(autoglm_install_room target folder)
  string(REGEX REPLACE "^autoglm_" "" name "${target}")
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
  install(TARGETS ${target} EXPORT open-autoglm ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/${folder}/" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/open-autoglm/${folder}"
          FILES_MATCHING PATTERN "*.h")
endfunction()

# Called once, after all rooms.
function(autoglm_install_package)
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/autoglm" DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(EXPORT open-autoglm NAMESPACE autoglm:: DESTINATION ${AUTOGLM_PACKAGE_DIR} FILE open-autoglm-targets.cmake)
  configure_package_config_file(cmake/open-autoglm-config.cmake.in "${PROJECT_BINARY_DIR}/open-autoglm-config.cmake"
                                INSTALL_DESTINATION ${AUTOGLM_PACKAGE_DIR})
  write_basic_package_version_file("${PROJECT_BINARY_DIR}/open-autoglm-config-version.cmake"
                                   COMPATIBILITY SameMinorVersion)
  install(FILES "${PROJECT_BINARY_DIR}/open-autoglm-config.cmake"
                "${PROJECT_BINARY_DIR}/open-autoglm-config-version.cmake" cmake/AutoglmDependencies.cmake
          DESTINATION ${AUTOGLM_PACKAGE_DIR})
  install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DATADIR}/doc/open-autoglm")
endfunction()
