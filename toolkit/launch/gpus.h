// Which GPUs the ranks will see, and which CPUs lie near them, without torch and without waking a
// driver: /proc/driver/nvidia and sysfs say it. Only MIG devices need NVML, which is loaded then.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "host/facts.h"

namespace envkit {

struct VisibleGpu {
  std::string name;  // as CUDA_VISIBLE_DEVICES has it: "0", "GPU-5f3c…", "MIG-…"
  std::string uuid;  // empty: not known
  std::string pci;   // "0000:17:00.0"; empty: not known
};

// VISIBLE is CUDA_VISIBLE_DEVICES; nullptr: not set. As CUDA reads it: the list ends at the first
// name that means no device.
std::vector<VisibleGpu> VisibleGpus(const HostFacts& facts, const std::string* visible,
                                    const std::filesystem::path& root = "/",
                                    const std::string& nvml = "libnvidia-ml.so.1");

// "0-3,8" → 0, 1, 2, 3, 8.
std::vector<int> ParseCpuList(const std::string& text);

// The CPUs for each of RANKS ranks, from ALLOWED ones; all empty where MODE binds nothing or the
// machine has one node. Mode: "" (node where it makes sense), "none", "node", "socket",
// "exclusive" (a share of the node for each), "core-complex" (likewise).
std::vector<std::vector<int>> PlanBinding(const std::string& mode, int ranks,
                                          const std::vector<VisibleGpu>& gpus,
                                          const std::vector<int>& allowed,
                                          const std::filesystem::path& root = "/");
std::vector<int> AllowedCpus();

}  // namespace envkit
