# The target envkit-launch: one file that needs glibc and nothing else, since it is copied into
# images and mounted into others. It takes no library of the tool, so that the runtime build inside
# an image's builder root can include this file as it is.
get_filename_component(_toolkit ${CMAKE_CURRENT_LIST_DIR}/.. ABSOLUTE)
file(GLOB _sources CONFIGURE_DEPENDS ${_toolkit}/host/*.cpp ${_toolkit}/launch/*.cpp
     ${_toolkit}/symptoms/*.cpp)
add_executable(envkit-launch ${_toolkit}/base/result.cpp ${_toolkit}/base/text.cpp
               ${_sources})
target_include_directories(envkit-launch PRIVATE ${_toolkit})
target_compile_features(envkit-launch PRIVATE cxx_std_20)
target_compile_definitions(envkit-launch PRIVATE FMT_HEADER_ONLY
                           ENVKIT_VERSION="${PROJECT_VERSION}")
target_compile_options(envkit-launch PRIVATE -Wall -Wextra -Wpedantic
                       -ffunction-sections -fdata-sections -fvisibility=hidden)
target_link_options(envkit-launch PRIVATE -static-libstdc++ -static-libgcc -Wl,--gc-sections
                    $<$<CONFIG:Release>:-s>)
if(ENVKIT_SANITIZE)
  target_compile_options(envkit-launch PRIVATE -fsanitize=${ENVKIT_SANITIZE}
                         -fno-omit-frame-pointer)
  target_link_options(envkit-launch PRIVATE -fsanitize=${ENVKIT_SANITIZE})
endif()
target_link_libraries(envkit-launch PRIVATE ${CMAKE_DL_LIBS})
install(TARGETS envkit-launch RUNTIME DESTINATION bin)

# Links, by whose name it knows that it stands in for torchrun or for `accelerate launch`.
file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/shims)
foreach(_shim accelerate accelerate-launch torchrun)
  file(CREATE_LINK envkit-launch ${CMAKE_CURRENT_BINARY_DIR}/shims/${_shim} SYMBOLIC)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/shims/${_shim} DESTINATION bin)
endforeach()
