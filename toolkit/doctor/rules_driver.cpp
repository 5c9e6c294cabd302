// Is there a GPU, does its driver run, and do the driver's parts fit each other?
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "doctor/rule.h"
#include "doctor/versions.h"

namespace envkit::doctor {
namespace {

std::vector<std::string> Addresses(const Facts& facts) {
  std::vector<std::string> all;
  all.reserve(facts.pci.gpus.size());
  for (const PciDevice& gpu : facts.pci.gpus) all.push_back(gpu.address);
  return all;
}

std::string GpuCount(const Facts& facts) {
  const std::size_t count = facts.pci.gpus.size();
  return count == 1 ? "1 NVIDIA GPU" : fmt::format("{} NVIDIA GPUs", count);
}

const LibraryCopy* FirstCopy(const Facts& facts, std::string_view name) {
  for (const LibraryCopy& copy : facts.driver.libraries)
    if (copy.name == name && copy.first) return &copy;
  return nullptr;
}

bool IsCompat(const LibraryCopy& copy) {
  return copy.path.find("/compat/") != std::string::npos || copy.found_by == "cuda-compat";
}

// The first GPU of a generation that CHECK finds fault with, by NVML or else by its PCI id.
template <class Wanted>
std::optional<std::pair<std::string, GpuGeneration>> GpuWith(const Facts& facts,
                                                             const Matrix& matrix,
                                                             const Wanted& check) {
  for (const Gpu& gpu : facts.nvml.gpus) {
    const auto capability = ParseCapability(gpu.compute_capability);
    const GpuGeneration* generation = capability ? GenerationOf(matrix, *capability) : nullptr;
    if (generation != nullptr && check(*generation))
      return std::pair{GpuName(gpu) + ", compute capability " + gpu.compute_capability,
                       *generation};
  }
  for (const PciDevice& gpu : facts.pci.gpus) {
    const auto generation = GenerationOfPciId(matrix, gpu.id);
    if (generation && check(*generation))
      return std::pair{fmt::format("GPU {} (PCI id 10de:{})", gpu.address,
                                   gpu.id.starts_with("0x") ? gpu.id.substr(2) : gpu.id),
                       *generation};
  }
  return std::nullopt;
}

Outcome H01(const Facts& facts) {
  if (HasGpu(facts)) return Pass();
  if (!facts.pci.unknown.empty()) return Unknown(facts.pci.unknown);
  Outcome found = Found(Severity::kInfo, "No NVIDIA GPU: jobs run on the CPU");
  found.Show("NVIDIA display devices", "none", "/sys/bus/pci/devices");
  if (facts.nvml.present)
    found.Show("libnvidia-ml", "installed, with nothing to do", facts.nvml.library);
  if (facts.system.virtualisation)
    found.Why("This is a virtual machine: a GPU of the host's must be passed to it.");
  else if (facts.system.container)
    found.Why("The machine around this container has none either.");
  else
    found.Why("The PCI bus has no display device of NVIDIA's.");
  return found;
}

Outcome H02(const Facts& facts) {
  if (facts.pci.gpus.empty()) return NotApplicable("no NVIDIA GPU on PCI");
  const DriverFacts& driver = facts.driver;
  if (!driver.unknown.empty()) return Unknown(driver.unknown);
  if (!driver.module_version.Known()) return Unknown(driver.module_version.unknown);
  if (driver.module_version) return Pass();
  const std::string kernel = facts.system.kernel ? *facts.system.kernel : "this kernel";
  Outcome found =
      Found(Severity::kFail, GpuCount(facts) + ", and NVIDIA's kernel module is not loaded");
  found.Show("on PCI", fmt::format("{}", fmt::join(Addresses(facts), " ")), "/sys/bus/pci/devices");
  found.Show("kernel module", "not loaded", driver.module_version.from);
  const PciDevice& first = facts.pci.gpus.front();
  if (first.driver == "vfio-pci") {
    found.Show("bound to", "vfio-pci", "/sys/bus/pci/devices/" + first.address + "/driver");
    return found.Why("The GPU is reserved for a virtual machine (vfio-pci).")
        .Say("remove it from the vfio-pci.ids= of the kernel's command line, then reboot");
  }
  for (const std::string& state : driver.dkms) found.Show("dkms", state, "/var/lib/dkms");
  if (driver.nouveau) {
    return found.Show("nouveau", "loaded", "/sys/module/nouveau")
        .Why("The free driver nouveau holds the GPU, and keeps NVIDIA's own out.")
        .Run(InstallDriver(facts, true))
        .Run(
            "printf 'blacklist nouveau\\noptions nouveau modeset=0\\n' | sudo tee "
            "/etc/modprobe.d/blacklist-nouveau.conf")
        .Run(RebuildInitramfs(facts) + " && sudo reboot");
  }
  if (driver.libraries.empty() && driver.dkms.empty() && !driver.disk_module_version) {
    return found.Why("The driver is not installed.")
        .Run(InstallHeaders(facts))
        .Run(InstallDriver(facts, true))
        .Run("sudo reboot");
  }
  if (!driver.headers) {
    return found.Show("kernel headers", "missing", "/lib/modules/" + kernel + "/build")
        .Why("The driver is installed, and its module was not built for kernel " + kernel +
             ", whose headers are missing.")
        .Run(InstallHeaders(facts))
        .Run("sudo dkms autoinstall && sudo modprobe nvidia");
  }
  if (!driver.dkms.empty() && !driver.disk_module_version) {
    return found.Why("The module was not built for the running kernel " + kernel + ".")
        .Run("sudo dkms autoinstall && sudo modprobe nvidia");
  }
  if (facts.system.secure_boot && *facts.system.secure_boot) {
    return found.Show("Secure Boot", "on", facts.system.secure_boot.from)
        .Why(
            "Secure Boot is on: the kernel refuses a module that is not signed with an enrolled "
            "key.")
        .Run("sudo mokutil --import /var/lib/dkms/mok.pub", "enrol dkms' key, then reboot")
        .Run("sudo modprobe nvidia");
  }
  return found.Why("The module is there and was not loaded, or refused to load.")
      .Run("sudo modprobe nvidia")
      .Run("sudo dmesg | grep -E 'NVRM|nvidia'", "if that fails, the kernel says why");
}

Outcome H03(const Facts& facts) {
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  if (OnWsl(facts)) return NotApplicable("on WSL the Windows driver has both");
  const DriverFacts& driver = facts.driver;
  if (!driver.module_version) return NotApplicable("the kernel module is not loaded");
  const LibraryCopy* library = FirstCopy(facts, "libnvidia-ml.so.1");
  if (library == nullptr) return NotApplicable("libnvidia-ml.so.1 is not installed");
  if (library->version.empty()) return Unknown(library->path + " has no version in its name");
  if (CompareNumbers(library->version, *driver.module_version) == 0) return Pass();
  Outcome found = Found(
      Severity::kFail, "The NVIDIA kernel module and the driver library are of different versions");
  found.Show("kernel module", driver.module_version);
  found.Show("libnvidia-ml", library->version, library->path);
  if (facts.system.container) {
    return found.Why("The container's copy of the library hides the one that the host passes in.")
        .Say("remove the driver's libraries from the image, or start the container anew");
  }
  const std::string reload =
      "sudo rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia && sudo modprobe nvidia";
  if (driver.disk_module_version &&
      CompareNumbers(*driver.disk_module_version, library->version) != 0) {
    found.Show("module on disk", driver.disk_module_version);
    return found
        .Why("The driver's libraries were updated; its module was not built for this kernel.")
        .Run(InstallHeaders(facts))
        .Run("sudo dkms autoinstall && sudo reboot");
  }
  return found.Why("The driver was updated, and the old module is still loaded.")
      .Run("sudo reboot")
      .Run(reload, "or, with nothing using the GPUs");
}

Outcome H04(const Facts& facts) {
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  if (OnWsl(facts)) return NotApplicable("on WSL the Windows driver has both");
  const Text& module = facts.driver.module_version;
  if (!module) return NotApplicable("the kernel module is not loaded");
  const LibraryCopy* library = FirstCopy(facts, "libcuda.so.1");
  if (library == nullptr) {
    Outcome found =
        Found(Severity::kFail, "The driver's libcuda.so.1 is missing: CUDA programs cannot start");
    found.Show("kernel module", module)
        .Show("libcuda.so.1", "not found", "ld.so.cache and the driver's directories");
    if (facts.system.container) {
      return found.Why("The container was started without the driver's compute part.")
          .Run("docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility …");
    }
    return found.Why("The kernel module is there and the driver's compute libraries are not.")
        .Run(Install(facts,
                     {"libcuda1", "nvidia-driver-cuda", "nvidia-compute-G06", "nvidia-utils"}));
  }
  if (IsCompat(*library)) return NotApplicable("a cuda-compat library comes first: see I03");
  if (library->version.empty()) return Unknown(library->path + " has no version in its name");
  if (CompareNumbers(library->version, *module) == 0) return Pass();
  return Found(Severity::kFail,
               "libcuda.so.1 is not of the loaded driver's version (CUDA error 803)")
      .Show("kernel module", module)
      .Show("libcuda", library->version, library->path)
      .Show("found by", library->found_by, "the loader's order")
      .Why("A copy from another driver comes first on the loader's path.")
      .Run(library->found_by == "LD_LIBRARY_PATH" ? "unset LD_LIBRARY_PATH"
                                                  : "ldconfig -p | grep libcuda",
           library->found_by == "LD_LIBRARY_PATH" ? ""
                                                  : "remove the stale copy that this lists first")
      .Run(library->found_by == "LD_LIBRARY_PATH" ? "" : "sudo ldconfig");
}

Outcome H05(const Facts& facts) {
  if (facts.driver.libraries.empty()) return NotApplicable("no driver library is installed");
  for (const char* name : {"libcuda.so.1", "libnvidia-ml.so.1"}) {
    std::set<std::string> versions;
    for (const LibraryCopy& copy : facts.driver.libraries)
      if (copy.name == name && !IsCompat(copy) && !copy.version.empty())
        versions.insert(copy.version);
    if (versions.size() < 2) continue;
    Outcome found = Found(Severity::kWarn,
                          fmt::format("{} versions of {} are installed", versions.size(), name));
    for (const LibraryCopy& copy : facts.driver.libraries)
      if (copy.name == name)
        found.Show(copy.first ? "taken" : "also there", copy.version, copy.path);
    return found
        .Why("The driver was installed in two ways, such as a package and NVIDIA's own installer.")
        .Run("sudo nvidia-uninstall", "if NVIDIA's installer was used, keep the packages")
        .Run("sudo ldconfig");
  }
  return Pass();
}

Outcome H06(const Facts& facts, const Matrix& matrix) {
  if (facts.pci.gpus.empty() && facts.nvml.gpus.empty()) return NotApplicable(kNoGpu);
  if (!facts.driver.module_version) return NotApplicable("the kernel module is not loaded");
  if (!facts.driver.open_module) return Unknown("the kernel module's flavour could not be read");
  const auto gpu =
      GpuWith(facts, matrix, [](const GpuGeneration& one) { return one.kernel_module == "open"; });
  if (!gpu) return NotApplicable("no GPU here that needs the open kernel modules");
  if (*facts.driver.open_module) return Pass();
  return Found(Severity::kFail,
               fmt::format("{} GPUs need the open kernel modules; the proprietary ones are loaded",
                           gpu->second.name))
      .Show("GPU", gpu->first, "NVML, else PCI")
      .Show("kernel module", *facts.driver.module_version + ", proprietary",
            facts.driver.open_module.from)
      .Why(
          "The proprietary modules do not know these GPUs: nvidia-smi says \"No devices were "
          "found\".")
      .Run(InstallDriver(facts, true))
      .Run("sudo reboot");
}

Outcome H07(const Facts& facts, const Matrix& matrix) {
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  const auto gpu = GpuWith(facts, matrix, [](const GpuGeneration& one) {
    return one.kernel_module == "proprietary" && one.last_branch;
  });
  if (!gpu) return NotApplicable("no GPU here from before Turing");
  const std::string driver = DriverVersion(facts);
  if (driver.empty()) return NotApplicable("no driver is loaded");
  const GpuGeneration& generation = gpu->second;
  const int last = *generation.last_branch;
  const bool open = facts.driver.open_module && *facts.driver.open_module;
  if (Branch(driver) <= last && !open) return Pass();
  const auto builds = BuildsThatRun(matrix, {std::nullopt, generation.capabilities.back()});
  return Found(Severity::kFail,
               fmt::format("{} GPUs are served by the proprietary driver up to branch {} alone",
                           generation.name, last))
      .Show("GPU", gpu->first, "NVML, else PCI")
      .Show("driver", driver + (open ? ", open modules" : ""), facts.driver.module_version.from)
      .Why(open ? "The open kernel modules begin with Turing."
                : fmt::format("Branch {} is the last one that knows {} GPUs.", last,
                              generation.name))
      .Run(Install(facts,
                   {fmt::format("nvidia-driver-{}", last), fmt::format("nvidia-driver-{}*", last),
                    "nvidia-driver-G06-kmp-default", ""}))
      .Say(
          builds.empty()
              ? "no build of PyTorch that envkit knows has code for these GPUs"
              : fmt::format("and a build of PyTorch with code for these GPUs, the newest is {} for "
                            "CUDA {}",
                            builds.front()->torch, builds.front()->cuda));
}

Outcome H08(const Facts& facts, const Matrix& matrix) {
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  const std::string driver = DriverVersion(facts);
  if (driver.empty()) return NotApplicable("no driver is loaded");
  const int branch = Branch(driver);
  const auto gpu = GpuWith(facts, matrix, [&](const GpuGeneration& one) {
    return one.first_branch && *one.first_branch > branch;
  });
  if (!gpu) return Pass();
  return Found(Severity::kFail,
               fmt::format("The driver is older than the {} GPU: it needs branch {}",
                           gpu->second.name, *gpu->second.first_branch))
      .Show("GPU", gpu->first, "NVML, else PCI")
      .Show("driver", driver, facts.driver.module_version.from)
      .Why("A driver knows the GPUs that were there when it was made.")
      .Run(InstallDriver(facts, gpu->second.kernel_module == "open"))
      .Run("sudo reboot");
}

Outcome H09(const Facts& facts, const Matrix& matrix) {
  const std::string driver = DriverVersion(facts);
  if (!HasGpu(facts) || driver.empty()) return NotApplicable("no driver is loaded");
  if (matrix.branches.empty()) return Unknown("the version matrix has no list of branches");
  // A captured tree has no date: the day on which the list was made.
  const std::string& date = facts.date.empty() ? matrix.branches.front().from.date : facts.date;
  const std::string month = date.substr(0, 7);
  const std::string version = CleanVersion(driver);
  if (version.empty()) return Unknown("the driver's version is odd: " + driver);
  const auto problem = BranchProblem(matrix, version, month);
  if (!problem) return Pass();
  Outcome found = Found(Severity::kWarn,
                        fmt::format("Driver branch {} is no longer maintained", Branch(driver)))
                      .Show("driver", driver, facts.driver.module_version.from)
                      .Show("in " + month, *problem, "NVIDIA's list of branches")
                      .Why(
                          "It gets no security fixes any more, and newer CUDA builds do not run "
                          "on it.");
  const DriverBranch* next = MaintainedBranch(matrix, month);
  if (next == nullptr) return found.Say("update to the newest branch");
  return found.Say(
      fmt::format("update to branch {} (maintained until {})", next->branch, next->end));
}

Outcome H10(const Facts& facts) {
  if (facts.pci.gpus.empty() && facts.driver.nodes.empty()) return NotApplicable(kNoGpu);
  if (!facts.driver.unknown.empty()) return Unknown(facts.driver.unknown);
  if (!facts.driver.module_version) return NotApplicable("the kernel module is not loaded");
  std::vector<std::string> missing, closed;
  std::string group;
  bool gpu = false, control = false, uvm = false;
  for (const DeviceNode& node : facts.driver.nodes) {
    control = control || node.path == "/dev/nvidiactl";
    uvm = uvm || node.path == "/dev/nvidia-uvm";
    const bool numbered = IsGpuNode(node.path);
    gpu = gpu || numbered;
    const bool matters =
        numbered || node.path == "/dev/nvidiactl" || node.path == "/dev/nvidia-uvm";
    if (!node.usable && matters) closed.push_back(node.path), group = node.group;
  }
  if (!control) missing.emplace_back("/dev/nvidiactl");
  if (!gpu) missing.emplace_back("/dev/nvidia0");
  if (!uvm) missing.emplace_back("/dev/nvidia-uvm");
  const bool inside = facts.system.container.value.has_value();
  if (!missing.empty()) {
    Outcome found =
        Found(Severity::kFail,
              fmt::format("{} missing: CUDA finds no device",
                          missing.size() == 1 ? missing[0] + " is" : "NVIDIA's device nodes are"));
    found.Show("missing", fmt::format("{}", fmt::join(missing, " ")), "/dev");
    if (inside) {
      return found.Why("The container was started without its GPUs.")
          .Run("docker run --gpus all …", "start it anew");
    }
    return found
        .Show("nvidia_uvm module", facts.driver.uvm ? "loaded" : "not loaded", "/sys/module")
        .Why(
            "Nobody made the nodes: nvidia-modprobe does, and it is not installed or not setuid "
            "root.")
        .Run("sudo nvidia-modprobe -u -c=0");
  }
  if (closed.empty()) return Pass();
  Outcome found = Found(Severity::kFail, "This user may not open the GPUs' device nodes");
  found.Show("closed to this user", fmt::format("{}", fmt::join(closed, " ")), "/dev");
  if (!group.empty()) found.Show("their group", group, "/dev");
  if (inside) {
    return found.Why("The container's user or its device cgroup has no access.")
        .Run("docker run --gpus all …", "start it anew");
  }
  return found.Why("The nodes were made for a group that this user is not in.")
      .Run(fmt::format("sudo usermod -aG {} $USER",
                       group.empty() || group == "root" ? "video" : group),
           "then log in again");
}

Outcome H24(const Facts& facts) {
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  const NvmlFacts& nvml = facts.nvml;
  if (!nvml.unknown.empty() && !nvml.step.empty()) {
    const bool crashed = nvml.unknown.find("crashed") != std::string::npos;
    return Found(Severity::kFail, crashed ? "The driver's management library crashes"
                                          : "The NVIDIA driver does not answer")
        .Show("NVML", nvml.unknown, nvml.library.empty() ? "libnvidia-ml.so.1" : nvml.library)
        .Show("at", nvml.step, "the probe's own steps")
        .Why(crashed
                 ? "The library and the driver do not fit each other, or the library is damaged."
                 : "The driver hangs, mostly because a GPU stopped responding.")
        .Run("sudo dmesg | grep -E 'NVRM|Xid'", "the kernel log says which GPU")
        .Run("sudo reboot");
  }
  if (!nvml.unknown.empty()) return Unknown(nvml.unknown);
  if (!nvml.present) {
    if (facts.driver.module_version && !facts.driver.libraries.empty())
      return Unknown(nvml.load_error.empty() ? "libnvidia-ml.so.1 was not loaded"
                                             : nvml.load_error);
    return NotApplicable("libnvidia-ml.so.1 is not installed");
  }
  if (!nvml.init) return Unknown("NVML was not asked");
  if (*nvml.init == 0) return Pass();
  const std::int64_t code = *nvml.init;
  Outcome found = Found(Severity::kFail, fmt::format("NVML does not start (code {})", code));
  found.Show("nvmlInit", fmt::to_string(code), nvml.library);
  constexpr int kNotLoaded = 9, kBlocked = 17, kMismatch = 18;
  if (code == kNotLoaded)
    found.Why("It cannot reach the kernel module.");
  else if (code == kBlocked)
    found.Why("A cgroup keeps this process from the GPUs.");
  else if (code == kMismatch)
    found.Why("The kernel module is of another version than the library.");
  else
    found.Why("The driver is loaded and cannot use the GPUs.");
  if (facts.system.container)
    return found.Run("docker run --gpus all …", "start the container anew");
  return found.Run("sudo dmesg | grep -E 'NVRM|Xid'", "the kernel log says why").Run("sudo reboot");
}

}  // namespace

std::vector<Rule> DriverRules() {
  return {
      {"H01",
       "an NVIDIA GPU is there",
       "Looks for NVIDIA display devices on the PCI bus, device nodes and WSL's /dev/dxg. Without "
       "one, jobs run on the CPU with gloo; that is no fault.",
       {},
       H01},
      {"H02",
       "NVIDIA's kernel module is loaded",
       "A GPU on PCI without NVIDIA's module: nvidia-smi says that it \"couldn't communicate with "
       "the "
       "NVIDIA driver\" (NVML 9). The usual reasons are nouveau, a kernel update without headers "
       "for "
       "dkms, and Secure Boot.",
       {},
       H02},
      {"H03",
       "kernel module and driver library agree",
       "The loaded module's version against that of the libnvidia-ml.so.1 that programs get. Where "
       "they differ: \"Driver/library version mismatch\" (NVML 18), \"NVRM: API mismatch\" in the "
       "kernel log.",
       {"H02"},
       H03},
      {"H04",
       "libcuda is of the driver's version",
       "The libcuda.so.1 that programs get against the loaded module. Where they differ: CUDA "
       "error "
       "803, \"unsupported display driver / cuda driver combination\".",
       {"H02", "H03", "H10"},
       H04},
      {"H05",
       "one version of the driver's libraries",
       "Two versions of libcuda or libnvidia-ml on one machine work until an ldconfig or an "
       "LD_LIBRARY_PATH picks the other one.",
       {"H03", "H04"},
       H05},
      {"H06",
       "the right flavour of kernel module",
       "Blackwell and Grace Hopper run with the open kernel modules alone. With the proprietary "
       "ones "
       "nvidia-smi says \"No devices were found\".",
       {"H02"},
       H06},
      {"H07",
       "the driver still serves this GPU",
       "GPUs from before Turing (compute capability below 7.5) have no open modules, and branch "
       "580 "
       "(for Kepler: 470) is the last that serves them.",
       {"H02", "H03"},
       H07},
      {"H08",
       "the driver knows this GPU",
       "A GPU needs the branch that introduced it, such as 570 for Blackwell.",
       {"H02", "H03", "H06"},
       H08},
      {"H09",
       "the driver's branch is maintained",
       "Branches of the driver end: the version matrix says which are maintained, and until when.",
       {"H02", "H03", "H08", "I02"},
       H09},
      {"H10",
       "the device nodes are there and open",
       "/dev/nvidiactl, /dev/nvidiaN and /dev/nvidia-uvm: without them CUDA says \"no CUDA-capable "
       "device is detected\" (100) or \"unknown error\" (999). After a suspend, reloading "
       "nvidia_uvm "
       "helps.",
       {"H02"},
       H10},
      {"H24",
       "NVML answers",
       "Asks the driver's management library, in a process of its own with a limit of 2 s, because "
       "a "
       "sick driver hangs or crashes there first.",
       {"H02", "H03", "H06", "H10"},
       H24},
  };
}

}  // namespace envkit::doctor
