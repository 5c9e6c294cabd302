// The one file that needs CUDA's headers. Compiled against the locked NCCL's own nccl.h, because
// the options hold an ncclConfig_t.
#include <c10/cuda/CUDAFunctions.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "../src/distributed/cuda_half.h"

#ifndef USE_C10D_NCCL
#error "nccl.cpp needs USE_C10D_NCCL"
#endif

extern "C" {

void envkit_cuda_use_device(int device) {
  c10::cuda::set_device(static_cast<c10::DeviceIndex>(device));
}

void envkit_cuda_create_nccl(const c10::intrusive_ptr<c10d::Store>* store, int rank, int ranks,
                             int device, std::chrono::milliseconds timeout,
                             c10::intrusive_ptr<c10d::Backend>* backend) {
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  auto nccl = c10::make_intrusive<c10d::ProcessGroupNCCL>(*store, rank, ranks, options);
  nccl->setBoundDeviceId(at::Device(at::kCUDA, static_cast<at::DeviceIndex>(device)));
  *backend = nccl;
}

}  // extern "C"
