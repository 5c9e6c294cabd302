// libenvkit_cuda.so, the half that links to libtorch_cuda: loaded only where there is a GPU, since
// it costs a start 0.2 s and 260 MB.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

extern "C" {
// Both throw c10::Error. The names are looked up with dlsym.
void envkit_cuda_use_device(int device);
void envkit_cuda_create_nccl(const c10::intrusive_ptr<c10d::Store>* store, int rank, int ranks,
                             int device, std::chrono::milliseconds timeout,
                             c10::intrusive_ptr<c10d::Backend>* backend);
}

namespace envkit {

// Finds a function of the loaded half; throws Failure where it is not loaded.
void* CudaHalfSymbol(const char* name);

}  // namespace envkit
