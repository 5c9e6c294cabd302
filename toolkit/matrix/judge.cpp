#include "matrix/judge.h"

#include <fmt/format.h>

#include <algorithm>

namespace envkit {
namespace {

// A branch alone is compared as a branch.
bool OlderThan(std::string_view driver, std::string_view floor) {
  if (driver.find('.') == std::string_view::npos) return MajorOf(driver) < MajorOf(floor);
  return CompareVersions(driver, floor) < 0;
}

std::string Named(const Matrix& matrix, Capability gpu) {
  const GpuGeneration* generation = GenerationOf(matrix, gpu);
  return generation == nullptr ? gpu.Text() : fmt::format("{} ({})", gpu.Text(), generation->name);
}

std::string List(const std::vector<Capability>& capabilities, const char* suffix = "") {
  std::string text;
  for (const Capability one : capabilities) text += (text.empty() ? "" : " ") + one.Text() + suffix;
  return text;
}

bool InRange(const KnownBad& bad, const std::optional<std::string>& version) {
  if (!bad.from && !bad.below) return true;
  if (!version) return false;
  return (!bad.from || CompareVersions(*version, *bad.from) >= 0) &&
         (!bad.below || CompareVersions(*version, *bad.below) < 0);
}

bool Concerns(const KnownBad& bad, const TorchBuild& build, const Machine& machine,
              std::string_view architecture) {
  if (bad.architecture && *bad.architecture != architecture) return false;
  if ((bad.gpu_from || bad.gpu_below) && !machine.gpu) return false;
  if (bad.gpu_from && *machine.gpu < *bad.gpu_from) return false;
  if (bad.gpu_below && !(*machine.gpu < *bad.gpu_below)) return false;
  if (bad.driver_branch && (!machine.driver || MajorOf(*machine.driver) != *bad.driver_branch)) {
    return false;
  }
  if (bad.library == "nccl") return InRange(bad, build.nccl);
  if (bad.library == "cudnn") return InRange(bad, build.cudnn);
  if (bad.library == "torch") return InRange(bad, build.torch);
  return bad.driver_branch.has_value();
}

}  // namespace

const GpuGeneration* GenerationOf(const Matrix& matrix, Capability gpu) {
  for (const GpuGeneration& generation : matrix.generations) {
    const auto& all = generation.capabilities;
    if (std::find(all.begin(), all.end(), gpu) != all.end()) return &generation;
  }
  return nullptr;
}

const CudaRelease* ReleaseOf(const Matrix& matrix, std::string_view cuda) {
  for (const CudaRelease& release : matrix.releases) {
    if (release.cuda == MajorMinor(cuda)) return &release;
  }
  return nullptr;
}

const CudaRelease* NewestCuda(const Matrix& matrix, std::string_view driver) {
  const CudaRelease* newest = nullptr;
  for (const CudaRelease& release : matrix.releases) {
    if (OlderThan(driver, release.driver)) continue;
    if (newest == nullptr || CompareVersions(release.cuda, newest->cuda) > 0) newest = &release;
  }
  return newest;
}

const DriverBranch* MaintainedBranch(const Matrix& matrix, std::string_view month) {
  const DriverBranch* longest = nullptr;
  for (const DriverBranch& branch : matrix.branches) {
    if (branch.end < month) continue;
    if (longest == nullptr || branch.end > longest->end) longest = &branch;
  }
  return longest;
}

std::optional<std::string> BranchProblem(const Matrix& matrix, std::string_view driver,
                                         std::string_view month) {
  const int branch = MajorOf(driver);
  int newest = 0;
  for (const DriverBranch& one : matrix.branches) {
    newest = std::max(newest, one.branch);
    if (one.branch != branch) continue;
    if (one.end >= month) return std::nullopt;
    return fmt::format("driver branch {} was maintained until {}", branch, one.end);
  }
  // Between the long-lived branches only the newest feature branch is served.
  if (branch >= newest) return std::nullopt;
  return fmt::format("driver branch {} is no longer maintained", branch);
}

const TorchBuild* FindBuild(const Matrix& matrix, std::string_view torch, std::string_view cuda) {
  const TorchBuild* found = nullptr;  // the last one is the newest
  for (const TorchBuild& build : matrix.builds) {
    if (InLine(build.torch, torch) && (cuda.empty() || build.cuda == MajorMinor(cuda))) {
      found = &build;
    }
  }
  return found;
}

Result<std::string> ParseDriver(std::string_view text) {
  if (IsVersion(text)) return std::string(text);
  return Usage(fmt::format("\"{}\" is not a driver version", text),
               "It looks like 550.54.14, or 550 for the newest of that branch; "
               "nvidia-smi shows it as \"Driver Version\".");
}

std::optional<std::string> DriverFloor(const Matrix& matrix, std::string_view cuda) {
  for (const CudaFamily& family : matrix.families) {
    if (family.major == MajorOf(cuda)) return family.driver;
  }
  return std::nullopt;
}

std::optional<std::string> DriverProblem(const Matrix& matrix, std::string_view cuda,
                                         const Machine& machine) {
  const auto floor = DriverFloor(matrix, cuda);
  if (!floor || !machine.driver || !OlderThan(*machine.driver, *floor)) return std::nullopt;
  return fmt::format("CUDA {} needs NVIDIA driver {} or newer, and this is {}", cuda, *floor,
                     *machine.driver);
}

std::optional<std::string> GpuProblem(const Matrix& matrix, const TorchBuild& build,
                                      const Machine& machine) {
  if (!machine.gpu || !build.sass) return std::nullopt;
  const Capability gpu = *machine.gpu;
  for (const Capability code : *build.sass) {
    if (code.major == gpu.major && code.minor <= gpu.minor) return std::nullopt;
  }
  const std::vector<Capability> ptx = build.ptx.value_or(std::vector<Capability>{});
  const bool compiled =
      std::any_of(ptx.begin(), ptx.end(), [&](auto code) { return !(gpu < code); });
  if (!compiled) {
    return fmt::format("it has no code for compute capability {}: it was built for {}{}",
                       Named(matrix, gpu), List(*build.sass),
                       ptx.empty() ? "" : " " + List(ptx, "+PTX"));
  }
  // Minor-version compatibility does not cover PTX: the driver's compiler must know it.
  const CudaRelease* release = ReleaseOf(matrix, build.cuda);
  if (release == nullptr || !machine.driver || !OlderThan(*machine.driver, release->driver)) {
    return std::nullopt;
  }
  return fmt::format(
      "for compute capability {} it has PTX alone, which needs driver {} or newer, and this is {}",
      Named(matrix, gpu), release->driver, *machine.driver);
}

std::optional<std::string> MachineProblem(const Matrix& matrix, const Machine& machine) {
  if (!machine.driver || !machine.gpu) return std::nullopt;
  const GpuGeneration* generation = GenerationOf(matrix, *machine.gpu);
  if (generation == nullptr) return std::nullopt;
  const int branch = MajorOf(*machine.driver);
  if (generation->first_branch && branch < *generation->first_branch) {
    return fmt::format("{} GPUs need driver branch {} or newer, and this is {}", generation->name,
                       *generation->first_branch, *machine.driver);
  }
  if (generation->last_branch && branch > *generation->last_branch) {
    return fmt::format("driver branch {} is the last for {} GPUs, and this is {}",
                       *generation->last_branch, generation->name, *machine.driver);
  }
  return std::nullopt;
}

bool HasPython(const TorchBuild& build, std::string_view python) {
  return python.empty() ||
         std::find(build.python.begin(), build.python.end(), python) != build.python.end();
}

bool Runs(const Matrix& matrix, const TorchBuild& build, const Machine& machine) {
  return !MachineProblem(matrix, machine) && !DriverProblem(matrix, build.cuda, machine) &&
         !GpuProblem(matrix, build, machine);
}

std::vector<const TorchBuild*> BuildsThatRun(const Matrix& matrix, const Machine& machine) {
  std::vector<const TorchBuild*> builds;
  for (const TorchBuild& build : matrix.builds) {
    if (Runs(matrix, build, machine)) builds.push_back(&build);
  }
  std::reverse(builds.begin(), builds.end());
  return builds;
}

const TorchBuild* NewestServed(const Matrix& matrix, const Machine& machine, std::string_view line,
                               std::string_view python) {
  for (const TorchBuild* build : BuildsThatRun(matrix, machine)) {
    if (build->OnDefaultIndex() && (line.empty() || InLine(build->torch, line)) &&
        HasPython(*build, python)) {
      return build;
    }
  }
  return nullptr;
}

const ForwardCompatibility* ForwardFor(const Matrix& matrix, std::string_view cuda,
                                       const Machine& machine) {
  if (!machine.driver) return nullptr;
  const int branch = MajorOf(*machine.driver);
  for (const ForwardCompatibility& forward : matrix.forward) {
    const auto& all = forward.branches;
    if (MajorOf(forward.cuda) == MajorOf(cuda) && CompareVersions(forward.cuda, cuda) >= 0 &&
        std::find(all.begin(), all.end(), branch) != all.end()) {
      return &forward;
    }
  }
  return nullptr;
}

std::vector<const KnownBad*> KnownProblems(const Matrix& matrix, const TorchBuild& build,
                                           const Machine& machine, std::string_view architecture) {
  std::vector<const KnownBad*> problems;
  for (const KnownBad& bad : matrix.known_bad) {
    if (Concerns(bad, build, machine, architecture)) problems.push_back(&bad);
  }
  return problems;
}

}  // namespace envkit
