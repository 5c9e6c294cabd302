// What runs where, and why not. Pure functions over the matrix; lock, build, run and doctor all ask
// these.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "matrix/matrix.h"

namespace envkit {

// What is known of a machine. A driver is a version ("550.54.14"), or a branch alone ("550"), which
// then stands for its newest.
struct Machine {
  std::optional<std::string> driver;
  std::optional<Capability> gpu;
};

// What may follow --driver; kUsage for anything but a version.
Result<std::string> ParseDriver(std::string_view text);

// Each nullopt where nothing speaks against it, else one clause without a full stop.
// "CUDA 13.2 needs NVIDIA driver 580 or newer, and this is 550.54.14"
std::optional<std::string> DriverProblem(const Matrix& matrix, std::string_view cuda,
                                         const Machine& machine);
// "it has no code for compute capability 7.0 (Volta): it was built for 7.5 8.0 8.6"
std::optional<std::string> GpuProblem(const Matrix& matrix, const TorchBuild& build,
                                      const Machine& machine);
// "Blackwell GPUs need driver branch 570 or newer, and this is 550.54.14"
std::optional<std::string> MachineProblem(const Matrix& matrix, const Machine& machine);

// What the matrix knows; nullptr: not this one.
const GpuGeneration* GenerationOf(const Matrix& matrix, Capability gpu);
const CudaRelease* ReleaseOf(const Matrix& matrix, std::string_view cuda);
// The newest toolkit that DRIVER is new enough to have come with: "12.4" for 550.54.14.
const CudaRelease* NewestCuda(const Matrix& matrix, std::string_view driver);
// The newest build of TORCH ("2.15", "2.15.0"); empty CUDA: for whatever CUDA.
const TorchBuild* FindBuild(const Matrix& matrix, std::string_view torch, std::string_view cuda);

// "driver branch 535 was maintained until 2026-06"; MONTH is today's, "2026-11".
std::optional<std::string> BranchProblem(const Matrix& matrix, std::string_view driver,
                                         std::string_view month);
// The one that is maintained longest.
const DriverBranch* MaintainedBranch(const Matrix& matrix, std::string_view month);

bool HasPython(const TorchBuild& build, std::string_view python);  // empty: any
bool Runs(const Matrix& matrix, const TorchBuild& build, const Machine& machine);

// Newest torch first, of one torch the newest CUDA first.
std::vector<const TorchBuild*> BuildsThatRun(const Matrix& matrix, const Machine& machine);

// The newest build that the default index serves and MACHINE runs; of LINE alone ("2.12") where it
// is not empty. nullptr: none.
const TorchBuild* NewestServed(const Matrix& matrix, const Machine& machine,
                               std::string_view line = "", std::string_view python = "");

// The driver that CUDA needs: "580"; nullopt where the matrix does not know that CUDA.
std::optional<std::string> DriverFloor(const Matrix& matrix, std::string_view cuda);

// A cuda-compat package that would let this driver's branch run CUDA, on data-centre GPUs.
const ForwardCompatibility* ForwardFor(const Matrix& matrix, std::string_view cuda,
                                       const Machine& machine);

// The rows of known-bad.json that BUILD falls under. One whose GPU condition cannot be judged,
// since the GPU is not known, is left out.
std::vector<const KnownBad*> KnownProblems(const Matrix& matrix, const TorchBuild& build,
                                           const Machine& machine,
                                           std::string_view architecture = "x86_64");

}  // namespace envkit
