// What is wrong with the GPUs that the ranks will use, before they start: NVML says it in a child
// process with a time limit, since a sick driver may hang whoever asks it.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "launch/gpus.h"

namespace envkit {

struct GpuHealth {
  std::vector<std::string> broken;  // "GPU 1 (0000:b3:00.0) is lost …": nothing may start
  std::vector<std::string> notes;   // "GPU 0 is in use by python3 (pid 4711), 12.5 GiB"
};

// Empty where there is no NVML. LIMIT is for all of them.
GpuHealth LookAtGpus(const std::vector<VisibleGpu>& gpus,
                     std::chrono::milliseconds limit = std::chrono::milliseconds(2000),
                     const std::string& nvml = "libnvidia-ml.so.1");

}  // namespace envkit
