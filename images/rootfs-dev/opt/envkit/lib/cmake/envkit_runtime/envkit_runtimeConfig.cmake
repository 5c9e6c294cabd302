# find_package(envkit_runtime): the training runtime of this image and the torch that it is linked
# with, as envkit::runtime. (find_package(Torch) insists on a CUDA toolkit.)
file(GLOB ENVKIT_TORCH LIST_DIRECTORIES ON /usr/local/lib/python3*/dist-packages/torch)
list(GET ENVKIT_TORCH 0 ENVKIT_TORCH)
get_filename_component(ENVKIT_PREFIX ${CMAKE_CURRENT_LIST_DIR}/../../.. ABSOLUTE)
find_package(Threads REQUIRED)

if(NOT TARGET envkit::runtime)
  foreach(name c10 torch_cpu)
    add_library(envkit::${name} SHARED IMPORTED)
    set_target_properties(envkit::${name} PROPERTIES
      IMPORTED_LOCATION ${ENVKIT_TORCH}/lib/lib${name}.so
      INTERFACE_INCLUDE_DIRECTORIES
        "${ENVKIT_TORCH}/include;${ENVKIT_TORCH}/include/torch/csrc/api/include"
      INTERFACE_COMPILE_DEFINITIONS "USE_C10D_GLOO;AT_PER_OPERATOR_HEADERS"
      INTERFACE_COMPILE_FEATURES cxx_std_20
      # libtorch_cpu finds libcudart by an RPATH of its own, which the linker does not follow.
      INTERFACE_LINK_OPTIONS "-Wl,--allow-shlib-undefined")
  endforeach()
  add_library(envkit::runtime SHARED IMPORTED)
  set_target_properties(envkit::runtime PROPERTIES
    IMPORTED_LOCATION ${ENVKIT_PREFIX}/lib/libenvkit_runtime.so
    INTERFACE_INCLUDE_DIRECTORIES ${ENVKIT_PREFIX}/include
    INTERFACE_LINK_LIBRARIES "envkit::torch_cpu;envkit::c10;Threads::Threads")
endif()
