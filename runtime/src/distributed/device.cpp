// Finds GPUs without LibTorch's CUDA code, and loads that code where there are any.
#include <dlfcn.h>

#include <filesystem>
#include <string>

#include "cuda_half.h"
#include "envkit/distributed.h"
#include "envkit/failure.h"

namespace envkit {
namespace {

void* cuda_half = nullptr;

// libtorch_cpu has loaded libcudart in any case; without a driver this takes 0.2 ms.
int CountGpus() {
  using Count = int (*)(int*);
  const auto count = reinterpret_cast<Count>(dlsym(RTLD_DEFAULT, "cudaGetDeviceCount"));
  int devices = 0;
  return count != nullptr && count(&devices) == 0 ? devices : 0;
}

void LoadCudaHalf() {
  if (cuda_half != nullptr) return;
  Dl_info self{};
  dladdr(reinterpret_cast<void*>(&CountGpus), &self);
  const std::filesystem::path file =
      std::filesystem::path(self.dli_fname != nullptr ? self.dli_fname : "").parent_path() /
      "libenvkit_cuda.so";
  cuda_half = dlopen(file.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (cuda_half == nullptr) {
    const char* reason = dlerror();
    throw Failure("this machine has a GPU, but the CUDA half of the runtime does not load\n" +
                      std::string(reason != nullptr ? reason : file.c_str()),
                  "use the cuda variant of the image, or set device = \"cpu\"", 3);
  }
}

}  // namespace

void* CudaHalfSymbol(const char* name) {
  void* symbol = cuda_half != nullptr ? dlsym(cuda_half, name) : nullptr;
  if (symbol == nullptr)
    throw Failure(std::string("the CUDA half of the runtime has no ") + name,
                  "libenvkit_cuda.so and libenvkit_runtime.so must be of the same build", 3);
  return symbol;
}

at::Device SelectDevice(const std::string& wanted, int local_rank) {
  if (wanted == "cpu") return at::kCPU;
  if (wanted != "auto" && wanted != "cuda")
    throw Failure("there is no device \"" + wanted + "\"", "choose auto, cpu or cuda", 2);
  const int gpus = CountGpus();
  if (gpus == 0) {
    if (wanted == "auto") return at::kCPU;
    throw Failure("device = \"cuda\", but CUDA finds no GPU here",
                  "`envkit doctor` says what this machine lacks; device = \"auto\" takes the CPU",
                  3);
  }
  if (local_rank >= gpus)
    throw Failure("local rank " + std::to_string(local_rank) +
                      " has no GPU of its own: there are " + std::to_string(gpus),
                  "start at most one rank per GPU", 2);
  LoadCudaHalf();
  reinterpret_cast<decltype(&envkit_cuda_use_device)>(CudaHalfSymbol("envkit_cuda_use_device"))(
      local_rank);
  return at::Device(at::kCUDA, static_cast<at::DeviceIndex>(local_rank));
}

}  // namespace envkit
