// Does the image (the project's lock, or the torch that is installed here) fit driver and GPU?
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <sstream>

#include "doctor/rule.h"
#include "doctor/versions.h"
#include "matrix/advise.h"

namespace envkit::doctor {
namespace {

const PythonPackage* Installed(const Facts& facts, std::string_view name) {
  for (const PythonPackage& package : facts.python.packages)
    if (package.name == name) return &package;
  return nullptr;
}

// A version as the lock has it, else as it is installed: the first package whose name begins so.
struct Version {
  std::string version, source;
};
Version VersionOf(const Facts& facts, std::string_view start) {
  for (const LockedPackage& package : facts.project.locked)
    if (package.name.starts_with(start)) return {package.version, "envkit.lock"};
  for (const PythonPackage& package : facts.python.packages)
    if (package.name.starts_with(start)) return {package.version, package.directory};
  return {};
}

struct Build {
  std::string torch, cuda, source;
};
// What would run: the project's image, else the torch that is here.
Build WantedBuild(const Facts& facts) {
  const ProjectFacts& project = facts.project;
  if (project.found && !project.torch.empty() && !project.cuda.empty() && project.cuda != "cpu" &&
      project.cuda != "auto")
    return {project.torch, project.cuda, project.locked.empty() ? project.file : "envkit.lock"};
  const PythonPackage* torch = Installed(facts, "torch");
  if (torch != nullptr && facts.python.torch_cuda && !facts.python.torch_cuda->empty())
    return {torch->version, *facts.python.torch_cuda, facts.python.torch_cuda.from};
  return {};
}

bool Compare(int order, std::string_view op) {
  if (op == ">=") return order >= 0;
  if (op == "<=") return order <= 0;
  if (op == ">") return order > 0;
  if (op == "<") return order < 0;
  return order == 0;
}

// One term of NVIDIA_REQUIRE_CUDA; what is not known (a brand) counts as met: no false alarms.
bool TermMet(std::string_view term, const std::string& cuda, const std::string& driver) {
  const std::size_t at = term.find_first_of("<>=");
  if (at == term.npos) return true;
  const std::size_t end = std::min(term.find_first_not_of("<>=", at), term.size());
  const std::string_view name = term.substr(0, at), op = term.substr(at, end - at),
                         value = term.substr(end);
  if (name == "cuda") return cuda.empty() || Compare(CompareNumbers(cuda, value), op);
  if (name == "driver") return driver.empty() || Compare(CompareNumbers(driver, value), op);
  return true;
}

// Spaces are OR, commas are AND.
bool RequirementMet(const std::string& text, const std::string& cuda, const std::string& driver) {
  std::istringstream alternatives(text);
  bool any = false;
  for (std::string alternative; alternatives >> alternative; any = true) {
    bool met = true;
    std::istringstream terms(alternative);
    for (std::string term; std::getline(terms, term, ',');)
      met = met && TermMet(term, cuda, driver);
    if (met) return true;
  }
  return !any;
}

Machine MachineWith(const Facts& facts, const std::string& capability = "") {
  Machine machine;
  if (const std::string driver = CleanVersion(DriverVersion(facts)); !driver.empty())
    machine.driver = driver;
  machine.gpu = ParseCapability(capability);
  return machine;
}

std::string WithoutBreaks(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

std::string NewestCudaText(const Matrix& matrix, const std::string& driver) {
  const std::string version = CleanVersion(driver);
  const CudaRelease* newest = version.empty() ? nullptr : NewestCuda(matrix, version);
  return newest == nullptr ? "" : newest->cuda;
}

std::string CudaText(std::int64_t version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

Outcome I01(const Facts& facts, const Matrix& matrix) {
  const std::string* required = FindVariable(facts, "NVIDIA_REQUIRE_CUDA");
  if (required == nullptr || required->empty()) return NotApplicable("no NVIDIA_REQUIRE_CUDA here");
  const Number& cuda = facts.nvml.cuda_version;
  const std::string driver = DriverVersion(facts);
  if (!cuda && driver.empty()) return Unknown("no driver tells its version");
  const std::string most = cuda ? CudaText(*cuda) : NewestCudaText(matrix, driver);
  if (RequirementMet(*required, most, driver)) return Pass();
  const std::string shown = required->size() > 60 ? required->substr(0, 60) + "…" : *required;
  return Found(Severity::kFail, "This image asks for a newer driver than the host has")
      .Show("NVIDIA_REQUIRE_CUDA", shown, "the environment")
      .Show("driver", driver.empty() ? "not known" : driver + ", for CUDA up to " + most, "NVML")
      .Why(
          "\"requirement error: unsatisfied condition\": the image's CUDA is newer than the "
          "driver's.")
      .Say("update the host's driver, or take an image for CUDA " + most);
}

Outcome I02(const Facts& facts, const Matrix& matrix) {
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  const Build build = WantedBuild(facts);
  if (build.cuda.empty()) return NotApplicable("no project and no torch for CUDA here");
  const std::string driver = DriverVersion(facts);
  if (driver.empty()) return NotApplicable("no driver is loaded");
  const std::string cuda = CleanVersion(build.cuda);
  const auto floor = cuda.empty() ? std::nullopt : DriverFloor(matrix, cuda);
  if (!floor) return Unknown("the driver floor of CUDA " + build.cuda + " is not known here");
  if (const auto advice = AdviseOnDriver(matrix, cuda, facts.project.python, MachineWith(facts))) {
    return Found(Severity::kFail, fmt::format("The driver is too old for CUDA {}", build.cuda))
        .Show("driver", driver, facts.driver.module_version.from)
        .Show("CUDA " + build.cuda, "driver " + *floor + " or newer", "the version matrix")
        .Show("torch", build.torch + " for CUDA " + build.cuda, build.source)
        .Why("\"The NVIDIA driver on your system is too old\": each CUDA major has its floor.")
        .Say(WithoutBreaks(advice->next) + " A change of envkit.toml needs: envkit lock.")
        .Run(InstallDriver(facts, true), "the driver's update");
  }
  const CudaRelease* own = ReleaseOf(matrix, cuda);
  if (own != nullptr && CompareNumbers(driver, own->driver) < 0) {
    return Found(Severity::kInfo,
                 fmt::format(
                     "The driver is older than CUDA {}'s own: freshly compiled kernels may fail",
                     build.cuda))
        .Show("driver", driver + ", for CUDA up to " + NewestCudaText(matrix, driver),
              facts.driver.module_version.from)
        .Show("CUDA " + build.cuda, "came with driver " + own->driver, "the version matrix")
        .Why(
            "Minor-version compatibility runs what was compiled for the GPU; PTX from a newer CUDA "
            "(extensions that are compiled when they run) is refused with error 222.")
        .Say("update the driver when you can");
  }
  return Pass();
}

Outcome I03(const Facts& facts) {
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  const LibraryCopy* first = nullptr;
  for (const LibraryCopy& copy : facts.driver.libraries)
    if (copy.name == "libcuda.so.1" && copy.first) first = &copy;
  if (first == nullptr || first->path.find("/compat/") == std::string::npos)
    return NotApplicable("no cuda-compat library comes first");
  if (facts.nvml.gpus.empty()) return Unknown("no GPU tells its name");
  for (const Gpu& gpu : facts.nvml.gpus) {
    if (gpu.name.empty() || DataCentre(gpu.name)) continue;
    return Found(Severity::kFail,
                 "cuda-compat is on the loader's path, which " + GpuName(gpu) + " does not support")
        .Show("libcuda.so.1", first->version, first->path)
        .Show("found by", first->found_by, "the loader's order")
        .Why("CUDA error 804: forward compatibility is for data-centre GPUs.")
        .Run("unset LD_LIBRARY_PATH")
        .Say("or take the compat directory off it")
        .Say("and a driver that is new enough for this CUDA: see I02");
  }
  const std::string driver = DriverVersion(facts);
  if (!driver.empty() && CompareNumbers(first->version, driver) < 0) {
    return Found(Severity::kFail, "cuda-compat is older than the driver (CUDA error 803)")
        .Show("driver", driver, facts.driver.module_version.from)
        .Show("libcuda.so.1", first->version, first->path)
        .Why("Compatibility goes forward only: the driver's own libcuda is newer.")
        .Run("unset LD_LIBRARY_PATH")
        .Say("or take the compat directory off it");
  }
  return Pass();
}

Outcome I04(const Facts& facts) {
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  const std::string* visible = FindVariable(facts, "CUDA_VISIBLE_DEVICES");
  if (visible != nullptr) {
    const bool hidden = visible->empty() || *visible == "-1" || *visible == "NoDevFiles";
    std::string beyond;
    if (facts.nvml.count) {
      std::istringstream parts(*visible);
      for (std::string part; std::getline(parts, part, ',');) {
        if (part.empty() || part.find_first_not_of("0123456789") != std::string::npos ||
            part.size() > 4)
          continue;
        if (std::stoll(part) >= *facts.nvml.count && beyond.empty()) beyond = part;
      }
    }
    if (hidden || !beyond.empty()) {
      Outcome found = Found(hidden ? Severity::kFail : Severity::kWarn,
                            hidden ? "CUDA_VISIBLE_DEVICES hides all GPUs"
                                   : "CUDA_VISIBLE_DEVICES names a GPU that is not there");
      found.Show("CUDA_VISIBLE_DEVICES", "\"" + *visible + "\"", "the environment");
      if (!beyond.empty()) found.Show("GPUs here", fmt::to_string(*facts.nvml.count), "NVML");
      return found
          .Why(hidden ? "\"no CUDA-capable device is detected\": programs see none."
                      : "CUDA stops at the first number that does not exist: what follows is "
                        "hidden too.")
          .Run("unset CUDA_VISIBLE_DEVICES");
    }
  }
  if (!facts.system.container) return Pass();
  const std::string* devices = FindVariable(facts, "NVIDIA_VISIBLE_DEVICES");
  if (devices != nullptr && (*devices == "void" || *devices == "none")) {
    return Found(Severity::kFail, "The container was told to take no GPUs")
        .Show("NVIDIA_VISIBLE_DEVICES", *devices, "the environment")
        .Why("The image or the command sets it, and the NVIDIA runtime obeys.")
        .Run("docker run --gpus all -e NVIDIA_VISIBLE_DEVICES=all …");
  }
  const std::string* capabilities = FindVariable(facts, "NVIDIA_DRIVER_CAPABILITIES");
  if (capabilities != nullptr && *capabilities != "all") {
    for (const char* wanted : {"compute", "utility"}) {
      if (("," + *capabilities + ",").find(std::string(",") + wanted + ",") != std::string::npos)
        continue;
      return Found(Severity::kFail,
                   fmt::format("The container has the driver without \"{}\"", wanted))
          .Show("NVIDIA_DRIVER_CAPABILITIES", *capabilities, "the environment")
          .Why(
              "Parts of the driver that are not listed are not mounted: libcuda is compute, "
              "nvidia-smi and NVML are utility.")
          .Run("docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility …");
    }
  }
  return Pass();
}

Outcome I05(const Facts& facts, const Matrix& matrix) {
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  const Build build = WantedBuild(facts);
  if (build.cuda.empty()) return NotApplicable("no project and no torch for CUDA here");
  const Question question{
      CleanVersion(build.torch), CleanVersion(build.cuda), facts.project.python, {}};
  const bool versions = !question.torch.empty() && !question.cuda.empty();
  const TorchBuild* known = versions ? FindBuild(matrix, question.torch, question.cuda) : nullptr;
  if (known == nullptr || !known->sass)
    return Unknown(fmt::format("what PyTorch {} for CUDA {} has code for is not known here",
                               build.torch, build.cuda));
  bool any = false;
  for (const Gpu& gpu : facts.nvml.gpus) {
    Machine machine = MachineWith(facts, gpu.compute_capability);
    if (!machine.gpu) continue;
    any = true;
    // A driver that is at fault itself is I02's and H08's.
    if (DriverProblem(matrix, question.cuda, machine) || MachineProblem(matrix, machine))
      machine.driver.reset();
    const auto problem = GpuProblem(matrix, *known, machine);
    if (!problem) continue;
    Question here = question;
    here.machine = machine;
    const Judgement verdict = Judge(matrix, here);
    return Found(Severity::kFail, "This build of PyTorch does not run on " + GpuName(gpu))
        .Show("compute capability", gpu.compute_capability, "NVML")
        .Show("torch", fmt::format("{} for CUDA {}", build.torch, build.cuda), build.source)
        .Why("\"no kernel image is available for execution on the device\": " + *problem + ".")
        .Say(verdict.fit == Fit::kFits ? "take a build that fits: envkit matrix"
                                       : WithoutBreaks(verdict.next))
        .Say("then: envkit lock");
  }
  return any ? Pass() : Unknown("no GPU tells its compute capability");
}

Outcome I06(const Facts& facts) {
  for (const LibraryCopy& copy : facts.python.foreign) {
    if (copy.name != "libnccl.so.2") continue;
    return Found(Severity::kFail, "Another NCCL than torch's own is loaded first")
        .Show("libnccl.so.2", copy.version.empty() ? "there" : copy.version, copy.path)
        .Why(
            "\"undefined symbol: ncclCommWindowRegister\" and the like: torch was linked against "
            "its own.")
        .Run("unset LD_LIBRARY_PATH")
        .Say("or take that directory off it");
  }
  const PythonPackage *twelve = Installed(facts, "nvidia-nccl-cu12"),
                      *thirteen = Installed(facts, "nvidia-nccl-cu13");
  if (twelve == nullptr && thirteen == nullptr)
    return NotApplicable("no NCCL package is installed here");
  if (twelve == nullptr || thirteen == nullptr) return Pass();
  return Found(Severity::kFail, "NCCL for CUDA 12 and for CUDA 13 are installed together")
      .Show("nvidia-nccl-cu12", twelve->version, twelve->directory)
      .Show("nvidia-nccl-cu13", thirteen->version, thirteen->directory)
      .Why("Which one is loaded depends on the order of imports.")
      .Run(facts.python.torch_cuda && facts.python.torch_cuda->starts_with("13")
               ? "pip uninstall nvidia-nccl-cu12"
               : "pip uninstall nvidia-nccl-cu13");
}

Outcome I07(const Facts& facts) {
  for (const LibraryCopy& copy : facts.python.foreign) {
    if (!copy.name.starts_with("libcudnn")) continue;
    return Found(Severity::kWarn, "Another cuDNN than torch's own is loaded first")
        .Show(copy.name, copy.version.empty() ? "there" : copy.version, copy.path)
        .Why("\"cuDNN version incompatibility\", or CUDNN_STATUS_NOT_INITIALIZED.")
        .Run("unset LD_LIBRARY_PATH")
        .Say("or take that directory off it");
  }
  if (Installed(facts, "torch") == nullptr) return NotApplicable("torch is not installed here");
  return Pass();
}

// The matrix states some conditions for people. Those that facts can judge are judged; what depends
// on the job alone (copy-engine collectives, many nodes) would be a note on every machine.
bool Holds(const KnownBad& bad, const Facts& facts) {
  const SystemFacts& system = facts.system;
  if (!bad.when || bad.id == "nccl-init-pre-blackwell") return true;
  if (bad.id == "nccl-unlimited-stack") return system.stack_soft && *system.stack_soft == -1;
  if (bad.id == "nccl-cumem-host")
    return system.container && system.numa_nodes && *system.numa_nodes <= 1;
  if (bad.id == "nccl-nvls-bind") return system.virtualisation.value.has_value();
  return bad.id == "nccl-rtx-pro" &&
         std::count_if(facts.nvml.gpus.begin(), facts.nvml.gpus.end(), [](const Gpu& gpu) {
           return gpu.name.find("RTX PRO 6000") != std::string::npos;
         }) >= 2;
}
bool Certain(const KnownBad& bad) { return bad.id != "nccl-init-pre-blackwell"; }

Outcome I08(const Facts& facts, const Matrix& matrix) {
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  const Version nccl = VersionOf(facts, "nvidia-nccl");
  if (nccl.version.empty()) return NotApplicable("no project and no NCCL here");
  const SystemFacts& system = facts.system;
  const bool blackwell = std::any_of(
      facts.nvml.gpus.begin(), facts.nvml.gpus.end(),
      [](const Gpu& gpu) { return CompareNumbers(gpu.compute_capability, "10.0") >= 0; });
  if (facts.nvml.gpus.size() < 2 && !blackwell)
    return NotApplicable("with one GPU, NCCL has little to do");
  TorchBuild build;
  build.nccl = CleanVersion(nccl.version);
  build.torch = CleanVersion(VersionOf(facts, "torch").version);
  if (build.torch.empty()) build.torch = "0";  // in no range
  if (const std::string cudnn = CleanVersion(VersionOf(facts, "nvidia-cudnn").version);
      !cudnn.empty())
    build.cudnn = cudnn;
  std::vector<const KnownBad*> defects;
  for (const Gpu& gpu : facts.nvml.gpus)
    for (const KnownBad* bad :
         KnownProblems(matrix, build, MachineWith(facts, gpu.compute_capability),
                       system.architecture ? *system.architecture : "x86_64"))
      if (Holds(*bad, facts) && std::find(defects.begin(), defects.end(), bad) == defects.end())
        defects.push_back(bad);
  if (defects.empty()) return Pass();
  // What holds on some such machines only is for information.
  std::stable_sort(defects.begin(), defects.end(),
                   [&](const auto* a, const auto* b) { return Certain(*a) && !Certain(*b); });
  const KnownBad& first = *defects.front();
  const std::string version = first.library == "torch"    ? "torch " + build.torch
                              : first.library == "cudnn"  ? "cuDNN " + build.cudnn.value_or("")
                              : first.library == "driver" ? "Driver " + DriverVersion(facts)
                                                          : "NCCL " + nccl.version;
  Outcome found = Found(Certain(first) ? Severity::kWarn : Severity::kInfo,
                        fmt::format("{} has a known defect: {}", version, first.what));
  found.Show("NCCL", nccl.version, nccl.source)
      .Show("GPUs", fmt::to_string(facts.nvml.gpus.size()), "NVML")
      .Show("reported", first.id, first.from_where.source);
  for (const KnownBad* bad : defects)
    if (bad != &first) found.Show("also", bad->what, bad->from_where.source);
  found.Why("The version matrix lists it for a machine such as this.");
  for (const KnownBad* bad : defects)
    found.Say(bad->remedy.starts_with("NCCL_") ? "set " + bad->remedy : bad->remedy);
  return found;
}

Outcome I09(const Facts& facts) {
  if (Installed(facts, "torch") == nullptr) return NotApplicable("torch is not installed here");
  if (!facts.system.glibc) return Unknown(facts.system.glibc.unknown);
  if (CompareNumbers(*facts.system.glibc, "2.28") >= 0) return Pass();
  return Found(Severity::kFail, "The C library is older than torch's wheels need")
      .Show("glibc", facts.system.glibc)
      .Show("torch's wheels", "glibc 2.28 or newer", "manylinux_2_28")
      .Why("\"version `GLIBC_2.28' not found\".")
      .Say("use a newer base system, or envkit's own image");
}

Outcome I10(const Facts& facts, const Matrix& matrix) {
  const PythonPackage* torch = Installed(facts, "torch");
  if (torch == nullptr) return NotApplicable("torch is not installed here");
  const std::string line = MajorMinor(CleanVersion(torch->version));
  const TorchBuild* build = line.empty() ? nullptr : FindBuild(matrix, line, "");
  const struct {
    const char* name = nullptr;
    std::optional<std::string> wanted = {};
  } pairs[] = {{"torchvision", build == nullptr ? std::nullopt : build->torchvision},
               {"torchaudio", build == nullptr ? std::nullopt : build->torchaudio}};
  for (const auto& pair : pairs) {
    const PythonPackage* package = Installed(facts, pair.name);
    if (package == nullptr || !pair.wanted ||
        Leading(package->version, 2) == MajorMinor(*pair.wanted))
      continue;
    return Found(Severity::kFail, fmt::format("{} does not belong to this torch", pair.name))
        .Show("torch", torch->version, torch->directory)
        .Show(pair.name, package->version, package->directory)
        .Why(
            "\"operator torchvision::nms does not exist\" and the like: each is built against one "
            "release of torch.")
        .Run(fmt::format("pip install '{}=={}.*'", pair.name, MajorMinor(*pair.wanted)));
  }
  if (!HasGpu(facts) || !facts.python.torch_cuda || !facts.python.torch_cuda->empty())
    return Pass();
  return Found(Severity::kWarn, "torch is a CPU build on a machine with GPUs")
      .Show("torch", torch->version, torch->directory)
      .Show("its CUDA", "none", facts.python.torch_cuda.from)
      .Why("\"Torch not compiled with CUDA enabled\": pip took a build for CPUs.")
      .Say("install the build for CUDA, or: envkit run --variant cuda");
}

Outcome I11(const Facts& facts) {
  if (!facts.python.nvcc) return NotApplicable("nvcc is not installed here");
  if (!facts.python.torch_cuda || facts.python.torch_cuda->empty())
    return NotApplicable("no torch for CUDA is installed here");
  if (Leading(*facts.python.nvcc, 1) == Leading(*facts.python.torch_cuda, 1)) return Pass();
  return Found(Severity::kWarn,
               "nvcc is of another CUDA major than torch: extensions will not build")
      .Show("nvcc", facts.python.nvcc)
      .Show("torch's CUDA", facts.python.torch_cuda)
      .Why("\"The detected CUDA version mismatches the version that was used to compile PyTorch\".")
      .Say("install the toolkit of torch's major, and set CUDA_HOME to it");
}

}  // namespace

std::vector<Rule> ImageRules() {
  return {
      {"I01",
       "the image's wish for a driver is met",
       "NVIDIA_REQUIRE_CUDA, which NVIDIA's images carry: spaces are OR, commas AND. The legacy "
       "hook "
       "enforces it, CDI does not.",
       {"H02", "H03", "I02"},
       I01},
      {"I02",
       "the driver runs this build's CUDA",
       "The driver against the floor of the build's CUDA major (12.x: 525.60.13, 13.x: 580), and "
       "against the toolkit's own driver, below which freshly compiled PTX fails. lock, build and "
       "run refuse by the same table: envkit matrix.",
       {"H02", "H03", "H08"},
       I02},
      {"I03",
       "no cuda-compat where it cannot work",
       "Forward compatibility is for data-centre GPUs (error 804), and only forward (803).",
       {"H02"},
       I03},
      {"I04",
       "no variable hides the GPUs",
       "CUDA_VISIBLE_DEVICES, NVIDIA_VISIBLE_DEVICES and NVIDIA_DRIVER_CAPABILITIES.",
       {"H02", "H10"},
       I04},
      {"I05",
       "the build has code for every GPU",
       "The list of compute capabilities in the wheels against the GPUs': code runs on the same "
       "major "
       "and an equal or higher minor; PTX is compiled upward.",
       {"H02"},
       I05},
      {"I06",
       "one NCCL, and torch's own",
       "\"undefined symbol: ncclCommWindowRegister\" where another one is loaded first.",
       {},
       I06},
      {"I07",
       "torch's own cuDNN comes first",
       "\"cuDNN version incompatibility\" where another one does.",
       {},
       I07},
      {"I08",
       "NCCL has no known defect for this machine",
       "The version matrix's list of versions that hang or fail on certain machines.",
       {},
       I08},
      {"I09", "the C library is new enough for torch", "torch's wheels need glibc 2.28.", {}, I09},
      {"I10",
       "torch, torchvision and torchaudio belong together",
       "Each release of torch has its own of the others; and a CPU build on a GPU machine is a "
       "mistake.",
       {},
       I10},
      {"I11",
       "nvcc is of torch's CUDA major",
       "Extensions are compiled with nvcc against torch's CUDA.",
       {},
       I11},
  };
}

}  // namespace envkit::doctor
