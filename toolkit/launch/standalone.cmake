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
if(NOT ENVKIT_SANITIZE)
  # So that it runs on glibc 2.28, wherever it was built: see old_glibc.cpp. libdl is named for the
  # glibcs that have dlopen there; since 2.34 it is an empty library that is always present.
  set(_newer __libc_start_main dlopen dlsym pthread_once __pthread_key_create
             __libc_single_threaded stat lstat fstat fstatat stat64 lstat64 fstat64 fstatat64
             arc4random __isoc23_strtol __isoc23_strtoul __isoc23_strtoll __isoc23_strtoull
             _dl_find_object)
  list(TRANSFORM _newer PREPEND "-Wl,--wrap=")
  target_link_options(envkit-launch PRIVATE ${_newer})
  target_link_libraries(envkit-launch PRIVATE -Wl,--no-as-needed -l:libdl.so.2 -Wl,--as-needed)
else()
  set_source_files_properties(${_toolkit}/launch/old_glibc.cpp PROPERTIES HEADER_FILE_ONLY ON)
endif()
install(TARGETS envkit-launch RUNTIME DESTINATION bin)

# Links, by whose name it knows that it stands in for torchrun or for `accelerate launch`.
file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/shims)
foreach(_shim accelerate accelerate-launch torchrun)
  file(CREATE_LINK envkit-launch ${CMAKE_CURRENT_BINARY_DIR}/shims/${_shim} SYMBOLIC)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/shims/${_shim} DESTINATION bin)
endforeach()
