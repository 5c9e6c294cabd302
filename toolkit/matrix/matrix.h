// The version matrix: images/matrix/*.json as data. Which builds of torch there are, for which
// CUDA, with which libraries and GPU code in them; what a driver and a GPU can run; what is known
// to fail. tools/matrix.py renews the rows of torch.json from the wheels themselves.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "matrix/version.h"

namespace envkit {

// Where a row is from, and when it was last taken from there.
struct Provenance {
  std::string source, date;
};

// What is not known is nullopt.
struct TorchBuild {
  std::string torch;  // "2.10.0"
  std::string cuda;   // "12.8"
  // Which indexes serve it for this version: "default" is pip's and uv's own. None that anybody
  // read: it exists, and an index that has it must be named.
  std::vector<std::string> indexes;
  std::optional<std::string> released, glibc, cudnn, nccl, triton, torchvision, torchaudio;
  std::vector<std::string> python;                   // "3.13"
  std::optional<std::vector<Capability>> sass, ptx;  // the GPU code in it
  bool confirmed = false;                            // read from a wheel, but for UNCONFIRMED
  std::vector<std::string> unconfirmed;              // fields
  Provenance from;

  bool OnDefaultIndex() const;
};

struct CudaRelease {
  std::string cuda, driver;  // the driver that came with this toolkit
  Provenance from;
};
struct CudaFamily {
  int major = 0;
  std::string driver;  // the oldest that runs binaries of all its toolkits
  Provenance from;
};
// NVIDIA's cuda-compat package, which lets data-centre GPUs of older driver branches run CUDA.
struct ForwardCompatibility {
  std::string cuda, driver;
  std::vector<int> branches;
  Provenance from;
};
struct DriverBranch {
  int branch = 0;
  std::string kind, end;  // "long-term", "2028-06"
  Provenance from;
};
struct GpuGeneration {
  std::string name;
  std::vector<Capability> capabilities;
  std::optional<std::string> first_cuda, last_cuda;
  std::optional<int> first_branch, last_branch;
  std::optional<std::string> kernel_module;  // open | proprietary | either
  Provenance from;
};

struct KnownBad {
  std::string id, library;           // library: nccl | cudnn | torch | driver
  std::optional<std::string> from;   // inside the range
  std::optional<std::string> below;  // outside it
  std::optional<Capability> gpu_from, gpu_below;
  std::optional<int> driver_branch;
  std::optional<std::string> architecture;  // "aarch64"
  std::optional<std::string> when;          // for people: it holds only then
  std::string what, remedy;
  Provenance from_where;
};

struct Matrix {
  std::vector<TorchBuild> builds;       // by torch, then CUDA
  std::vector<std::string> incomplete;  // lines of torch that may have more builds: "2.15"
  std::vector<CudaRelease> releases;
  std::vector<CudaFamily> families;
  std::vector<ForwardCompatibility> forward;
  std::vector<DriverBranch> branches;
  std::vector<GpuGeneration> generations;
  std::vector<KnownBad> known_bad;
};

// The texts of the three files.
struct MatrixTexts {
  std::string torch, cuda, known_bad;
};
Result<Matrix> ParseMatrix(const MatrixTexts& texts);

// IMAGES is the directory that holds matrix/. Part of envkit: what is missing or damaged there is
// kMissing.
Result<Matrix> LoadMatrix(const std::filesystem::path& images);

}  // namespace envkit
