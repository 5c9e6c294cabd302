// What `envkit verify` concludes from what envkit-probe printed in the image: pure, so that tests
// judge machines that are not here.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "image/check.h"
#include "matrix/advise.h"
#include "project/lock.h"

namespace envkit {

struct ProbeOutput {
  int exit_code = 0;
  std::string text;                   // all that was printed
  std::vector<nlohmann::json> ranks;  // the lines of envkit-probe, by rank
};
ProbeOutput ParseProbe(int exit_code, std::string text);

struct ProbeExpectation {
  std::string variant;  // cpu | cuda
  int ranks = 2;
  bool gpus = false;           // each rank must have a GPU of its own
  const Lock* lock = nullptr;  // null: versions are shown, not judged
};
std::vector<Check> JudgeProbe(const ProbeOutput& probe, const ProbeExpectation& expected);

// The GPUs that took part: "NVIDIA H100 80GB HBM3 (0000:17:00.0)".
std::vector<std::string> GpusOf(const ProbeOutput& probe);

// Can this machine's driver run the CUDA of LOCK's images?
Check CheckDriver(const Lock& lock, const std::string& variant, const Machine& machine,
                  const Matrix& matrix);

// What the ranks reached: "1.8 GB/s over gloo"; empty where nothing was measured.
std::string Bandwidth(const ProbeOutput& probe);

}  // namespace envkit
