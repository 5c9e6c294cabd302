// envkit-probe: what `envkit verify` starts in an image, on every rank. Each rank prints one line
// of JSON: which device it has, whether sums over the ranks are exact, how fast they are; rank 0
// adds the libraries that this process has mapped, with the versions that they themselves tell.
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>

#include "envkit/distributed.h"
#include "envkit/failure.h"

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

template <class Function>
Function* Symbol(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
}

// Small integers, so that sums are exact in any order.
at::Tensor Pattern(std::int64_t count, std::int64_t factor, at::Device device) {
  return at::arange(count, at::TensorOptions().dtype(at::kFloat).device(device))
      .remainder_(251)
      .add_(1)
      .mul_(factor);
}

// Reading an element waits for the device.
void Wait(const at::Tensor& tensor) { (void)tensor.select(0, 0).item<float>(); }

Json CheckAllReduce(envkit::Communicator& communicator, std::int64_t bytes) {
  const int ranks = communicator.ranks().world_size;
  const std::int64_t sum = std::int64_t{ranks} * (ranks + 1) / 2;
  const at::Device device = communicator.device();
  bool exact = true;
  // Odd sizes too: they take other code than those that fill whole blocks.
  for (const std::int64_t count : {std::int64_t{1}, std::int64_t{1027}, bytes / 4}) {
    at::Tensor tensor = Pattern(count, communicator.ranks().rank + 1, device);
    communicator.AllReduceTensor(tensor);
    exact = exact && at::equal(tensor, Pattern(count, sum, device));
  }
  double value = communicator.ranks().rank + 1;
  communicator.AllReduceSum({&value, 1});
  exact = exact && value == static_cast<double>(sum);

  double best = 0;
  at::Tensor tensor = at::zeros({bytes / 4}, at::TensorOptions().dtype(at::kFloat).device(device));
  for (int round = 0; round < 5; ++round) {
    communicator.Barrier();
    Wait(tensor);
    const Clock::time_point start = Clock::now();
    communicator.AllReduceTensor(tensor);
    Wait(tensor);
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = round == 0 ? seconds : std::min(best, seconds);
  }
  // What each link carries, as nccl-tests count it: comparable between numbers of ranks.
  const double carried = 2.0 * (ranks - 1) / ranks * static_cast<double>(bytes);
  return {{"exact", exact},
          {"bytes", bytes},
          {"seconds", best},
          {"bus_bytes_per_second", best > 0 ? carried / best : 0}};
}

// One step of data-parallel training, by the way that training takes: the mean gradient is known.
Json CheckTraining(const std::shared_ptr<envkit::Communicator>& communicator) {
  const int ranks = communicator->ranks().world_size;
  const auto options = at::TensorOptions().dtype(at::kFloat).device(communicator->device());
  at::Tensor weight = at::full({8, 4}, communicator->ranks().rank, options).requires_grad_(true);
  envkit::DataParallel parallel(communicator, {{"weight", weight}});
  const bool same_start = at::equal(weight, at::zeros({8, 4}, options));  // rank 0's
  // A multiple of the number of ranks, so that the division of a mean is exact as well.
  const at::Tensor input = at::full({2, 8}, ranks * (communicator->ranks().rank + 1), options);
  parallel.BeforeForward();
  parallel.Backward(at::matmul(input, weight).sum());
  const at::Tensor mean = at::full({8, 4}, ranks * (ranks + 1), options);
  return {{"exact", same_start && weight.grad().defined() && at::equal(weight.grad(), mean)},
          {"transport", communicator->Transport()}};
}

std::string Dotted(int major, int minor) {
  return std::to_string(major) + "." + std::to_string(minor);
}

std::string Dotted(int major, int minor, int patch) {
  return Dotted(major, minor) + "." + std::to_string(patch);
}

// Of the libraries that are loaded, by their own functions.
Json Versions() {
  Json versions;
  const std::uint64_t torch = aoti_torch_abi_version();
  versions["torch"] = Dotted(static_cast<int>(torch >> 56), static_cast<int>(torch >> 48 & 0xff),
                             static_cast<int>(torch >> 40 & 0xff));
  int number = 0;
  if (auto* get = Symbol<int(int*)>("cudaRuntimeGetVersion"); get != nullptr && get(&number) == 0)
    versions["cuda_runtime"] = Dotted(number / 1000, number % 1000 / 10);
  number = 0;
  if (auto* get = Symbol<int(int*)>("cudaDriverGetVersion");
      get != nullptr && get(&number) == 0 && number > 0)
    versions["cuda_driver"] = Dotted(number / 1000, number % 1000 / 10);
  if (auto* get = Symbol<std::size_t()>("cudnnGetVersion"); get != nullptr) {
    const int version = static_cast<int>(get());  // 92600; before 9: 8907
    versions["cudnn"] = version >= 90000
                            ? Dotted(version / 10000, version % 10000 / 100, version % 100)
                            : Dotted(version / 1000, version % 1000 / 100, version % 100);
  }
  if (auto* get = Symbol<int(int*)>("ncclGetVersion"); get != nullptr && get(&number) == 0)
    versions["nccl"] = Dotted(number / 10000, number % 10000 / 100, number % 100);
  return versions;
}

// Where there is no GPU, training never loads these; that they load at all is known all the same.
Json LoadCudaHalf() {
  Dl_info runtime{};
  dladdr(reinterpret_cast<void*>(&envkit::RankInfoFromEnvironment), &runtime);
  const fs::path file = fs::path(runtime.dli_fname).parent_path() / "libenvkit_cuda.so";
  if (!fs::exists(file)) return nullptr;
  if (dlopen(file.c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr) return "loaded";
  const char* reason = dlerror();
  return reason != nullptr ? reason : "it does not load";
}

std::set<std::string> MappedFiles() {
  std::set<std::string> files;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    std::istringstream words(line);
    std::string range, permissions, offset, device, inode;
    words >> range >> permissions >> offset >> device >> inode >> std::ws;
    std::string path;
    std::getline(words, path);
    if (path.starts_with("/") && permissions.find('x') != std::string::npos) files.insert(path);
  }
  return files;
}

Json Gpu(at::Device device) {
  if (!device.is_cuda()) return nullptr;
  Json gpu;
  std::array<char, 64> bus{};
  if (auto* get = Symbol<int(char*, int, int)>("cudaDeviceGetPCIBusId");
      get != nullptr && get(bus.data(), static_cast<int>(bus.size()), device.index()) == 0)
    gpu["pci"] = bus.data();
  // The structure grows with each release of CUDA; the name has always been its first member.
  std::array<char, 16384> properties{};
  for (const char* name : {"cudaGetDeviceProperties_v2", "cudaGetDeviceProperties"}) {
    auto* get = Symbol<int(void*, int)>(name);
    if (get == nullptr || get(properties.data(), device.index()) != 0) continue;
    gpu["name"] = std::string(properties.data(), strnlen(properties.data(), 255));
    break;
  }
  return gpu;
}

int Probe(const std::string& wanted, std::int64_t bytes) {
  const envkit::RankInfo ranks = envkit::RankInfoFromEnvironment();
  const at::Device device = envkit::SelectDevice(wanted, ranks.local_rank);
  if (bytes == 0) bytes = device.is_cuda() ? std::int64_t{256} << 20 : std::int64_t{16} << 20;
  envkit::CommunicatorOptions options;
  options.timeout = std::chrono::seconds(60);
  const auto communicator = envkit::Communicator::Connect(ranks, device, options);

  Json line = {{"envkit_probe", 1},
               {"rank", ranks.rank},
               {"ranks", ranks.world_size},
               {"device", device.str()},
               {"gpu", Gpu(device)}};
  line["transport"] = ranks.world_size == 1 ? "none" : device.is_cuda() ? "nccl" : "gloo";
  line["allreduce"] = CheckAllReduce(*communicator, bytes);
  line["training"] = CheckTraining(communicator);
  if (ranks.rank == 0) {
    line["cuda_half"] = LoadCudaHalf();
    line["versions"] = Versions();
    line["mapped"] = MappedFiles();
  }
  // In one write: the ranks share what they write to.
  std::puts(line.dump().c_str());
  communicator->Barrier();
  return line["allreduce"]["exact"] == true && line["training"]["exact"] == true ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string wanted = argc > 1 ? argv[1] : "auto";
  const std::int64_t bytes = argc > 2 ? std::atoll(argv[2]) : 0;
  int code = 1;
  try {
    code = Probe(wanted, bytes);
  } catch (const envkit::Failure& failure) {
    std::fprintf(stderr, "error: %s\n", failure.what());
    if (!failure.next().empty()) std::fprintf(stderr, "  %s\n", failure.next().c_str());
    code = failure.exit_code();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
  }
  std::fflush(nullptr);
  _exit(code);  // as envkit-train: LibTorch's destructors wait for peers
}
