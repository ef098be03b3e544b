# Install rules and the exported CMake package: find_package(open-autoglm) gives autoglm::api and the rooms below it.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
install(DIRECTORY include/autoglm DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
