// The GPUs themselves: what the driver and the kernel log say of their health and their links.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>

#include "doctor/rule.h"
#include "doctor/versions.h"

namespace envkit::doctor {
namespace {

// Rules over NVML's figures: not applicable without a GPU, unknown without NVML.
template <class Check>
Outcome ForNvml(const Facts& facts, const Check& check) {
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  if (const std::string why = WithoutNvml(facts); !why.empty()) return Unknown(why);
  return check(facts.nvml);
}

const char kNvml[] = "NVML";

Outcome H11(const Facts& facts) {
  return ForNvml(facts, [&](const NvmlFacts& nvml) {
    std::vector<const Gpu*> lost;
    for (const Gpu& gpu : nvml.gpus)
      if (!gpu.error.empty()) lost.push_back(&gpu);
    const std::size_t answering = nvml.gpus.size() - lost.size();
    const bool compared = !facts.system.container && !facts.pci.gpus.empty() && !facts.system.wsl;
    const bool fewer = compared && nvml.gpus.size() < facts.pci.gpus.size();
    if (lost.empty() && !fewer) return Pass();
    Outcome found = Found(Severity::kFail, "A GPU that is on PCI does not answer");
    found.Show("on PCI", fmt::to_string(facts.pci.gpus.size()), "/sys/bus/pci/devices");
    found.Show("answering", fmt::to_string(answering), kNvml);
    for (const Gpu* gpu : lost) found.Show(fmt::format("GPU {}", gpu->index), gpu->error, kNvml);
    if (fewer) {
      for (const PciDevice& device : facts.pci.gpus) {
        const bool known = std::any_of(nvml.gpus.begin(), nvml.gpus.end(),
                                       [&](const Gpu& gpu) { return gpu.pci == device.address; });
        if (!known)
          found.Show("missing",
                     device.address + (device.driver.empty() ? ", without a driver"
                                                             : ", driver " + device.driver),
                     "/sys/bus/pci/devices");
      }
    }
    return found.Why("It fell off the bus, or the driver could not start it.")
        .Run("sudo nvidia-smi --gpu-reset", "where it needs only a reset")
        .Run("sudo reboot")
        .Say("if it stays away: power, cooling, seating, then replace it");
  });
}

enum class XidClass { kReset, kReboot, kVendor, kRestart, kFollows, kOther };
XidClass ClassOf(int code) {
  static const std::set<int> reset = {46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 158};
  static const std::set<int> vendor = {48, 74, 144, 145, 146, 147, 148, 149, 150};
  static const std::set<int> restart = {13, 31, 69, 94};
  static const std::set<int> follows = {43, 45, 63, 92, 154};
  if (code == 79) return XidClass::kReboot;
  if (reset.contains(code)) return XidClass::kReset;
  if (vendor.contains(code)) return XidClass::kVendor;
  if (restart.contains(code)) return XidClass::kRestart;
  if (follows.contains(code)) return XidClass::kFollows;
  return XidClass::kOther;
}

Outcome H12(const Facts& facts) {
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  if (!facts.kernel_log.unknown.empty()) return Unknown(facts.kernel_log.unknown);
  std::map<std::pair<int, std::string>, int> counts;
  std::set<XidClass> classes;
  for (const LogEvent& event : facts.kernel_log.events) {
    if (event.kind != "xid") continue;
    ++counts[{event.code, event.gpu}];
    classes.insert(ClassOf(event.code));
  }
  if (counts.empty()) return Pass();
  const bool hard = classes.contains(XidClass::kReset) || classes.contains(XidClass::kReboot) ||
                    classes.contains(XidClass::kVendor);
  const bool soft = !hard && !classes.contains(XidClass::kOther);
  Outcome found = Found(hard   ? Severity::kFail
                        : soft ? Severity::kInfo
                               : Severity::kWarn,
                        "The kernel log has errors of a GPU (Xid)");
  for (const auto& [key, count] : counts)
    found.Show(
        fmt::format("Xid {}", key.first),
        fmt::format("{} on {}", count == 1 ? "once" : fmt::format("{} times", count), key.second),
        facts.kernel_log.from);
  if (classes.contains(XidClass::kReboot))
    return found.Why("Xid 79: the GPU fell off the PCI bus.")
        .Run("sudo reboot")
        .Say("if it comes again: power, cooling, seating, then replace it");
  if (classes.contains(XidClass::kVendor))
    return found.Why("The hardware reports a memory or NVLink error that it could not correct.")
        .Run("sudo nvidia-smi --gpu-reset", "after draining the machine")
        .Say("if it comes again, run the vendor's diagnosis (dcgmi diag -r 3) and replace the GPU");
  if (classes.contains(XidClass::kReset))
    return found.Why("The GPU needs a reset before it can be relied on.")
        .Run("sudo nvidia-smi --gpu-reset", "after stopping what uses it")
        .Run("sudo reboot", "or");
  if (classes.contains(XidClass::kRestart))
    return found
        .Why(
            "A program made an illegal access or had a contained memory error: the GPU itself goes "
            "on.")
        .Say("restart that program; with Xid 13 or 31 look for a defect in its kernels");
  if (soft)
    return found.Why("These follow from another error or from ending a program.")
        .Say("nothing to do by itself");
  return found.Why("This code has no fixed advice here.")
      .Run("sudo dmesg | grep Xid", "the whole lines, for NVIDIA's table of Xids");
}

Outcome H13(const Facts& facts) {
  return ForNvml(facts, [](const NvmlFacts& nvml) {
    for (const Gpu& gpu : nvml.gpus) {
      const bool failed = gpu.rows_failed.value_or(false),
                 pending = gpu.rows_pending.value_or(false);
      const std::int64_t errors = gpu.ecc_uncorrected.value_or(0);
      if (!failed && !pending && errors == 0) continue;
      Outcome found = Found(Severity::kFail, GpuName(gpu) + " has memory errors");
      if (gpu.ecc_uncorrected)
        found.Show("uncorrectable errors", fmt::format("{} since the last reset", errors), kNvml);
      if (gpu.rows_pending) found.Show("row remapping pending", pending ? "yes" : "no", kNvml);
      if (gpu.rows_failed) found.Show("row remapping failed", failed ? "yes" : "no", kNvml);
      if (failed)
        return found.Why("There are no spare rows left for its bad memory.")
            .Say("take the GPU out of service and have it replaced");
      return found.Why("Memory rows went bad; spare ones take their place at the next reset.")
          .Run(fmt::format("sudo nvidia-smi --gpu-reset -i {}", gpu.index),
               "after stopping what uses it");
    }
    return Pass();
  });
}

Outcome H14(const Facts& facts) {
  return ForNvml(facts, [](const NvmlFacts& nvml) {
    bool any = false;
    for (const Gpu& gpu : nvml.gpus) {
      if (!gpu.recovery_action) continue;
      any = true;
      if (*gpu.recovery_action == 0) continue;
      static const std::map<std::int64_t, std::pair<const char*, const char*>> kActions = {
          {1, {"reset the GPU", "sudo nvidia-smi --gpu-reset"}},
          {2, {"reboot the machine", "sudo reboot"}},
          {3, {"drain peer-to-peer traffic", ""}},
          {4, {"drain, then reset", "sudo nvidia-smi --gpu-reset"}}};
      const auto action = kActions.find(*gpu.recovery_action);
      const bool known = action != kActions.end();
      Outcome found =
          Found(Severity::kFail, fmt::format("The driver wants {} recovered", GpuName(gpu)));
      found.Show("recovery action",
                 known ? action->second.first : fmt::format("code {}", *gpu.recovery_action),
                 "NVML field 230");
      found.Why("The driver met an error that only this action clears.");
      if (known && action->second.second[0] != 0)
        return found.Run(action->second.second, "after stopping what uses the GPUs");
      return found.Say("stop the jobs that use it, then ask nvidia-smi -q again");
    }
    return any ? Pass() : NotApplicable("this driver does not tell a recovery action");
  });
}

Outcome H15(const Facts& facts) {
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  struct Link {
    std::string name;
    std::int64_t now, most;
    std::string from;
  };
  std::vector<Link> links;
  for (const Gpu& gpu : facts.nvml.gpus)
    if (gpu.link_width && gpu.max_link_width)
      links.push_back({GpuName(gpu), *gpu.link_width, *gpu.max_link_width, kNvml});
  if (links.empty())
    for (const PciDevice& gpu : facts.pci.gpus)
      if (gpu.link_width > 0 && gpu.max_link_width > 0)
        links.push_back(
            {"GPU " + gpu.address, gpu.link_width, gpu.max_link_width, "/sys/bus/pci/devices"});
  if (links.empty()) return Unknown("neither NVML nor /sys tells the width of a PCIe link");
  std::vector<Link> narrow;
  for (const Link& link : links)
    if (link.now < link.most) narrow.push_back(link);
  if (narrow.empty()) return Pass();
  Outcome found = Found(
      Severity::kWarn,
      narrow.size() == 1 ? "A GPU's PCIe link is narrower than it could be"
                         : fmt::format("The PCIe links of {} GPUs are narrower than they could be",
                                       narrow.size()));
  for (const Link& link : narrow)
    found.Show(link.name, fmt::format("x{} of x{}", link.now, link.most), link.from);
  return found
      .Why(facts.system.virtualisation
               ? "The slot, a riser or the virtual machine's bus has fewer lanes; in virtual "
                 "machines the figure may be meaningless."
               : "The slot or a riser has fewer lanes, or the card is not seated well.")
      .Say("move it to a slot with all lanes; copies between host and GPU are slower until then");
}

Outcome H16(const Facts& facts) {
  return ForNvml(facts, [](const NvmlFacts& nvml) {
    constexpr std::int64_t kSlowdown = 0x8, kThermal = 0x40, kBrake = 0x80;
    bool any = false;
    for (const Gpu& gpu : nvml.gpus) {
      if (!gpu.clock_reasons) continue;
      any = true;
      const std::int64_t reasons = *gpu.clock_reasons;
      if ((reasons & (kSlowdown | kThermal | kBrake)) == 0) continue;
      Outcome found = Found(Severity::kWarn, GpuName(gpu) + " is slowed down by its hardware");
      std::vector<std::string> names;
      if (reasons & kThermal) names.emplace_back("too hot");
      if (reasons & kBrake) names.emplace_back("power brake from outside");
      if (reasons & kSlowdown) names.emplace_back("hardware slowdown");
      found.Show("reasons", fmt::format("{} (0x{:x})", fmt::join(names, ", "), reasons), kNvml);
      if (gpu.temperature) found.Show("temperature", fmt::format("{} °C", *gpu.temperature), kNvml);
      return found
          .Why(reasons & kThermal ? "It is too hot: airflow, fans, dust or the room."
                                  : "The power supply or its cables cannot give what it draws.")
          .Say(reasons & kThermal
                   ? "look at fans and airflow; until then: sudo nvidia-smi -pl WATTS"
                   : "look at the power supply and its cables");
    }
    return any ? Pass() : NotApplicable("this driver does not tell what holds the clocks down");
  });
}

Outcome H17(const Facts& facts) {
  return ForNvml(facts, [&](const NvmlFacts& nvml) {
    if (facts.system.container) return NotApplicable("the host's business, not the container's");
    bool any = false;
    for (const Gpu& gpu : nvml.gpus) {
      if (!gpu.persistence) continue;
      any = true;
      if (*gpu.persistence) continue;
      return Found(Severity::kInfo, "Persistence mode is off: every job's start waits for the GPUs")
          .Show(GpuName(gpu), "persistence off", kNvml)
          .Why(
              "Without a user the driver unloads a GPU's state and sets it up anew each time, for "
              "a second or more.")
          .Run("sudo systemctl enable --now nvidia-persistenced");
    }
    return any ? Pass() : NotApplicable("this driver has no persistence mode");
  });
}

Outcome H18(const Facts& facts) {
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  const DriverFacts& driver = facts.driver;
  if (!driver.nvswitch_nodes && facts.pci.nvswitches == 0) return NotApplicable("no NVSwitch here");
  if (facts.system.container) return NotApplicable("the fabric manager runs on the host");
  const Text& version = driver.fabric_manager_version;
  const std::string module = DriverVersion(facts);
  const std::string exact = Install(
      facts, {"nvidia-fabricmanager-" + std::to_string(Branch(module)) + "=" + module + "-1",
              "nvidia-fabricmanager-" + module, "nvidia-fabricmanager-" + module, ""});
  const std::string start = "sudo systemctl enable --now nvidia-fabricmanager";
  if (!driver.fabric_manager_running) {
    return Found(Severity::kFail, "The fabric manager is not running: CUDA fails with error 802")
        .Show("NVSwitches", "present", driver.nvswitch_nodes ? "/dev/nvidia-nvswitch*" : "PCI")
        .Show("nv-fabricmanager", version ? *version + ", not running" : "not running", "/proc")
        .Why("GPUs behind NVSwitches start only after the fabric manager has connected them.")
        .Run(version ? "" : exact)
        .Run(start);
  }
  if (version && !module.empty() && CompareNumbers(*version, module) != 0) {
    return Found(Severity::kFail, "The fabric manager is not of the driver's version (error 802)")
        .Show("driver", module, driver.module_version.from)
        .Show("nv-fabricmanager", version)
        .Why("The two must be of exactly the same version; one was updated alone.")
        .Run(exact)
        .Run("sudo systemctl restart nvidia-fabricmanager");
  }
  constexpr std::int64_t kCompleted = 3;
  for (const Gpu& gpu : facts.nvml.gpus) {
    if (gpu.fabric_state.value_or(0) == 0) continue;
    if (*gpu.fabric_state == kCompleted && gpu.fabric_status.value_or(0) == 0) continue;
    static const char* const kStates[] = {"not supported", "not started", "in progress",
                                          "completed"};
    return Found(Severity::kFail, "The NVSwitch fabric is not ready (CUDA error 802)")
        .Show(
            GpuName(gpu),
            fmt::format("{}, status {}", kStates[std::clamp<std::int64_t>(*gpu.fabric_state, 0, 3)],
                        gpu.fabric_status.value_or(0)),
            kNvml)
        .Why("The fabric manager runs and has not registered this GPU.")
        .Run("sudo systemctl restart nvidia-fabricmanager")
        .Run("sudo journalctl -u nvidia-fabricmanager -n 50", "it says why");
  }
  return Pass();
}

Outcome H19(const Facts& facts) {
  return ForNvml(facts, [](const NvmlFacts& nvml) {
    bool any = false;
    for (const Gpu& gpu : nvml.gpus) {
      const auto active = std::count(gpu.nvlinks.begin(), gpu.nvlinks.end(), 1);
      any = any || active > 0;
      // A GPU with none active has no bridge; some of them dead is a fault.
      if (active == 0 || active == static_cast<std::ptrdiff_t>(gpu.nvlinks.size())) continue;
      return Found(Severity::kWarn, GpuName(gpu) + " has NVLinks that are down")
          .Show("active", fmt::format("{} of {}", active, gpu.nvlinks.size()), kNvml)
          .Why("A link failed to train, or the bridge or fabric behind it is at fault.")
          .Run(fmt::format("nvidia-smi nvlink --status -i {}", gpu.index), "which links")
          .Run("sudo nvidia-smi --gpu-reset", "after stopping what uses the GPUs");
    }
    return any ? Pass() : NotApplicable("no NVLink here");
  });
}

Outcome H20(const Facts& facts) {
  return ForNvml(facts, [&](const NvmlFacts& nvml) {
    std::vector<const Gpu*> split;
    for (const Gpu& gpu : nvml.gpus)
      if (gpu.mig.value_or(false)) split.push_back(&gpu);
    if (split.empty()) return NotApplicable("MIG is off");
    const auto variable = facts.system.environment.find("CUDA_VISIBLE_DEVICES");
    const std::string chosen = variable == facts.system.environment.end() ? "" : variable->second;
    if (chosen.starts_with("MIG-")) return Pass();
    const Gpu& gpu = *split.front();
    if (gpu.mig_devices.empty())
      return Found(Severity::kFail, GpuName(gpu) + " is in MIG mode and has no instances")
          .Show("MIG", "on, 0 instances", kNvml)
          .Why("In MIG mode CUDA sees instances, never the whole GPU.")
          .Run(fmt::format("sudo nvidia-smi mig -i {} -cgi 0 -C", gpu.index),
               "make one of the whole GPU")
          .Run(fmt::format("sudo nvidia-smi -i {} -mig 0", gpu.index), "or switch MIG off");
    return Found(chosen.empty() ? Severity::kInfo : Severity::kWarn,
                 "GPUs are split by MIG: a process gets one instance, by its UUID")
        .Show(GpuName(gpu), fmt::format("{} instances", gpu.mig_devices.size()), kNvml)
        .Show("CUDA_VISIBLE_DEVICES", chosen.empty() ? "not set" : chosen, "the environment")
        .Why("Plain numbers mean whole GPUs; NCCL does not join instances of one GPU.")
        .Run("export CUDA_VISIBLE_DEVICES=" + gpu.mig_devices.front())
        .Run(fmt::format("sudo nvidia-smi -i {} -mig 0", gpu.index),
             "or switch MIG off to train on whole GPUs");
  });
}

Outcome H21(const Facts& facts) {
  return ForNvml(facts, [](const NvmlFacts& nvml) {
    for (const Gpu& gpu : nvml.gpus) {
      const std::int64_t mode = gpu.compute_mode.value_or(0);
      constexpr std::int64_t kProhibited = 2;
      if (mode == 0 || (mode != kProhibited && gpu.processes.empty())) continue;
      Outcome found = Found(
          Severity::kFail, GpuName(gpu) + (mode == kProhibited ? " is closed to computing"
                                                               : " is taken by one process alone"));
      found.Show("compute mode", mode == kProhibited ? "prohibited" : "exclusive", kNvml);
      for (const GpuProcess& one : gpu.processes)
        found.Show("in use by",
                   fmt::format("pid {}{}", one.pid, one.name.empty() ? "" : " " + one.name), kNvml);
      return found
          .Why(
              "Somebody set this compute mode; CUDA then says \"all CUDA-capable devices are busy "
              "or unavailable\".")
          .Run(fmt::format("sudo nvidia-smi -i {} -c DEFAULT", gpu.index));
    }
    Outcome found = Found(Severity::kInfo, "Other processes use the GPUs");
    constexpr std::size_t kMost = 8;
    bool crowded = false;
    for (const Gpu& gpu : nvml.gpus) {
      constexpr std::int64_t kShare = 10;
      if (!gpu.processes.empty() && gpu.memory_free && gpu.memory_total)
        crowded = crowded || *gpu.memory_free < *gpu.memory_total / kShare;
      for (const GpuProcess& one : gpu.processes)
        if (found.evidence.size() < kMost)
          found.Show(GpuName(gpu),
                     fmt::format("pid {}{}, {}", one.pid, one.name.empty() ? "" : " " + one.name,
                                 GiB(one.memory)),
                     kNvml);
    }
    if (found.evidence.empty()) return Pass();
    if (crowded) found.severity = Severity::kWarn;
    return found.Why("They share memory and time with what you start.")
        .Say("wait for them or stop them; --gpus 0,2 takes others");
  });
}

Outcome H22(const Facts& facts) {
  if (facts.pci.gpus.size() < 2) return NotApplicable("fewer than 2 GPUs on PCI");
  if (facts.system.virtualisation) return NotApplicable("a virtual machine needs ACS");
  if (!facts.pci.acs_bridges.Known() &&
      !(facts.pci.iommu_type && *facts.pci.iommu_type != "identity"))
    return Unknown(facts.pci.acs_bridges.unknown);
  const bool acs = facts.pci.acs_bridges && !facts.pci.acs_bridges->empty();
  const bool translated = facts.pci.iommu_type && *facts.pci.iommu_type != "identity";
  if (!acs && !translated) return Pass();
  Outcome found =
      Found(Severity::kWarn, "Copies between GPUs go through the IOMMU: NCCL may hang or be slow");
  if (acs)
    found.Show("bridges with ACS", fmt::format("{}", fmt::join(*facts.pci.acs_bridges, " ")),
               facts.pci.acs_bridges.from);
  if (translated) found.Show("IOMMU", *facts.pci.iommu_type, facts.pci.iommu_type.from);
  return found
      .Why(
          "PCIe access control or address translation redirects peer-to-peer traffic to the root "
          "complex, though the driver reports peer access as fine.")
      .Run("NCCL_P2P_DISABLE=1 envkit run …", "to confirm (the hang goes away)")
      .Say(
          "switch ACS and the IOMMU off in the firmware, or add iommu=pt to the kernel's command "
          "line");
}

Outcome H23(const Facts& facts) {
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  if (facts.network.rdma.empty()) return NotApplicable("no RDMA network card");
  if (facts.driver.peermem) return Pass();
  const std::string driver = DriverVersion(facts);
  constexpr int kDmaBuf = 515;  // and kernel 5.12
  const bool open = facts.driver.open_module && *facts.driver.open_module;
  if (open && Branch(driver) >= kDmaBuf && facts.system.kernel &&
      CompareNumbers(*facts.system.kernel, "5.12") >= 0)
    return Pass();
  if (facts.system.container && !facts.driver.module_version)
    return Unknown("the host's modules are not visible here");
  return Found(Severity::kWarn, "RDMA network cards cannot reach GPU memory directly")
      .Show("RDMA card", facts.network.rdma.front().name, "/sys/class/infiniband")
      .Show("nvidia_peermem", "not loaded", "/sys/module/nvidia_peermem")
      .Why("GPUDirect RDMA needs nvidia_peermem, or the open kernel modules with dma-buf.")
      .Run("sudo modprobe nvidia_peermem")
      .Run("echo nvidia_peermem | sudo tee /etc/modules-load.d/nvidia-peermem.conf",
           "and at every boot");
}

Outcome H25(const Facts& facts) {
  return ForNvml(facts, [](const NvmlFacts& nvml) {
    bool any = false;
    for (const Gpu& gpu : nvml.gpus) {
      if (!gpu.power_limit || !gpu.default_power_limit || *gpu.default_power_limit == 0) continue;
      any = true;
      constexpr std::int64_t kNear = 95, kWhole = 100;
      if (*gpu.power_limit * kWhole >= *gpu.default_power_limit * kNear) continue;
      return Found(Severity::kInfo, GpuName(gpu) + " has a lowered power limit")
          .Show(
              "limit",
              fmt::format("{} W of {} W", *gpu.power_limit / 1000, *gpu.default_power_limit / 1000),
              kNvml)
          .Why("Somebody lowered it; the GPU computes more slowly under load.")
          .Run(fmt::format("sudo nvidia-smi -i {} -pl {}", gpu.index,
                           *gpu.default_power_limit / 1000));
    }
    return any ? Pass() : NotApplicable("no GPU here tells a power limit");
  });
}

}  // namespace

std::vector<Rule> GpuRules() {
  return {
      {"H11",
       "every GPU answers",
       "As many GPUs answer as are on PCI. A missing one is \"GPU is lost\" (NVML 15), \"requires "
       "a "
       "reset\" (16), or Xid 79 in the kernel log.",
       {"H02", "H03", "H06", "H07", "H08", "H10", "H24", "H12"},
       H11},
      {"H12",
       "the kernel log has no GPU errors",
       "Xids are the driver's error reports. Some want a reset, 79 a reboot, 48, 74 and 144 to 150 "
       "the "
       "vendor's diagnosis; 13, 31, 69 and 94 are a program's.",
       {"H02"},
       H12},
      {"H13",
       "no memory errors",
       "Uncorrectable ECC errors and pending or failed row remapping: drain and reset; replace the "
       "GPU when remapping fails.",
       {},
       H13},
      {"H14",
       "no recovery wanted",
       "NVML's field 230 names the action that the driver wants.",
       {"H12", "H13"},
       H14},
      {"H15",
       "PCIe links have their full width",
       "The width alone: the generation drops when a GPU is idle, the width does not.",
       {"H11"},
       H15},
      {"H16",
       "nothing holds the clocks down",
       "Clock event reasons 0x8, 0x40 and 0x80: slowed by hardware, heat or the power brake.",
       {},
       H16},
      {"H17",
       "persistence mode is on",
       "Without it the driver sets a GPU up at each first use, which takes a second or more.",
       {"H24"},
       H17},
      {"H18",
       "the NVSwitch fabric is ready",
       "Machines with NVSwitches need the fabric manager, running and of exactly the driver's "
       "version; "
       "else CUDA says \"system not yet initialized\" (802).",
       {"H02", "H03"},
       H18},
      {"H19",
       "all NVLinks are up",
       "A GPU of which some links are active and some are not.",
       {"H18", "H12"},
       H19},
      {"H20",
       "MIG is off, or an instance is named",
       "In MIG mode a process gets one instance, named by its UUID; plain numbers do not work.",
       {},
       H20},
      {"H21",
       "nobody else uses the GPUs",
       "Processes on the GPUs and exclusive compute modes.",
       {"H24"},
       H21},
      {"H22",
       "GPUs reach each other directly",
       "ACS on PCIe bridges or a translating IOMMU on bare metal: peer-to-peer copies hang or "
       "crawl "
       "though their status is OK. NCCL_P2P_DISABLE=1 confirms it.",
       {},
       H22},
      {"H23",
       "network cards reach GPU memory",
       "GPUDirect RDMA needs nvidia_peermem, or dma-buf with the open kernel modules.",
       {"H02"},
       H23},
      {"H25",
       "power limits are the default ones",
       "A limit that was lowered slows training.",
       {},
       H25},
  };
}

}  // namespace envkit::doctor
