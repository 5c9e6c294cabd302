// What this machine has, read below a root prefix so that captured trees can stand in for it.
// Nothing here guesses: what could not be read is nullopt.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace envkit {

struct PciGpu {
  std::string address;  // "0000:17:00.0"
  int numa_node = -1;
};

struct HostFacts {
  std::vector<PciGpu> pci_gpus;              // NVIDIA display devices on PCI
  std::optional<std::string> kernel_module;  // /proc/driver/nvidia/version → "580.95.05"
  std::vector<int> device_nodes;             // /dev/nvidiaN, sorted
  bool control_node = false;                 // /dev/nvidiactl
  bool uvm_node = false;                     // /dev/nvidia-uvm
  std::vector<std::string> closed_nodes;     // of those, what this user may not open
  bool nouveau = false;                      // the module that keeps NVIDIA's own out
  bool wsl = false;                          // /dev/dxg
  bool wsl_driver = false;                   // the Windows driver's libcuda, below /usr/lib/wsl
  int cpus = 1;                              // usable: affinity mask and cgroup quota
  int numa_nodes = 1;
  std::optional<std::uint64_t> memory_bytes;  // the smaller of machine and cgroup limit
  std::optional<std::uint64_t> shm_bytes;     // size of /dev/shm
  // False where CAP_SYS_RESOURCE was taken from all processes, as in some virtual machines and
  // containers: then nobody raises a limit over its hard value, a daemon neither.
  bool may_raise_limits = true;
  std::string hostname;
  std::string kernel;
};

// ROOT is "/" or a captured tree. Takes about a millisecond and never blocks on a driver.
HostFacts ProbeHost(const std::filesystem::path& root = "/");

enum class GpuState {
  kNone,      // no NVIDIA device: CPU is the right choice, and is said
  kUsable,    // devices, module and device nodes agree
  kUnusable,  // a device is there and cannot be used: never silently the CPU
};
struct GpuVerdict {
  GpuState state = GpuState::kNone;
  std::string why;   // for kUnusable: one sentence
  std::string next;  // for kUnusable: what to do
};
GpuVerdict JudgeGpus(const HostFacts& facts);

}  // namespace envkit
