// To be replaced by the version matrix: until then these are its figures, gathered from public
// release notes up to autumn 2026. PCI device ids are from memory and used only where no driver
// tells the compute capability.
#include "doctor/figures.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

namespace envkit::doctor {
namespace {

std::vector<int> Numbers(std::string_view version) {
  std::vector<int> numbers;
  while (!version.empty()) {
    int value = 0;
    const auto [end, error] =
        std::from_chars(version.data(), version.data() + version.size(), value);
    if (error != std::errc()) break;
    numbers.push_back(value);
    version.remove_prefix(static_cast<std::size_t>(end - version.data()));
    if (!version.starts_with('.')) break;
    version.remove_prefix(1);
  }
  return numbers;
}

struct Generations {
  Generation generation;
  int first_capability = 0, last_capability = 0;  // 10 × major + minor
  unsigned first_id = 0, last_id = 0;
};
// GH100's ids are shared by H100 and Grace Hopper, which alone of them needs the open modules.
const Generations kGenerations[] = {
    {{"Kepler", "3.5", 0, false, true}, 30, 37, 0x0fc0, 0x12ff},
    {{"Maxwell", "5.0", 340, false, true}, 50, 53, 0x1340, 0x17ff},
    {{"Pascal", "6.0", 367, false, true}, 60, 62, 0x15f0, 0x1d7f},
    {{"Volta", "7.0", 384, false, true}, 70, 72, 0x1d80, 0x1dff},
    {{"Turing", "7.5", 410, false, false}, 75, 75, 0x1e00, 0x1fff},
    {{"Ampere", "8.0", 450, false, false}, 80, 80, 0x2080, 0x20ff},
    {{"Turing", "7.5", 410, false, false}, 75, 75, 0x2180, 0x21ff},
    {{"Ampere", "8.6", 455, false, false}, 86, 87, 0x2200, 0x22ff},
    {{"Grace Hopper", "9.0", 535, true, false}, 90, 90, 0x2342, 0x2348},
    {{"Hopper", "9.0", 525, false, false}, 90, 90, 0x2300, 0x23ff},
    {{"Ampere", "8.6", 455, false, false}, 86, 87, 0x2400, 0x25ff},
    {{"Ada", "8.9", 525, false, false}, 89, 89, 0x2600, 0x28ff},
    {{"Blackwell", "10.0", 570, true, false}, 100, 121, 0x2900, 0x32ff},
};

struct Toolkit {
  const char *cuda, *driver;
};
const Toolkit kToolkits[] = {{"11.8", "520.61.05"}, {"12.0", "525.60.13"}, {"12.1", "530.30.02"},
                             {"12.2", "535.54.03"}, {"12.3", "545.23.06"}, {"12.4", "550.54.14"},
                             {"12.5", "555.42.02"}, {"12.6", "560.28.03"}, {"12.8", "570.26"},
                             {"12.9", "575.51.03"}, {"13.0", "580.65.06"}, {"13.1", "590.44.01"},
                             {"13.2", "595.45.04"}, {"13.3", "610.43.02"}};

struct Release {
  const char *torch, *vision, *audio;
};
const Release kReleases[] = {{"2.4", "0.19", "2.4"},   {"2.5", "0.20", "2.5"},
                             {"2.6", "0.21", "2.6"},   {"2.7", "0.22", "2.7"},
                             {"2.8", "0.23", "2.8"},   {"2.9", "0.24", "2.9"},
                             {"2.10", "0.25", "2.10"}, {"2.11", "0.26", "2.11"}};

int Tens(std::string_view capability) {
  const auto numbers = Numbers(capability);
  return numbers.size() < 2 ? 0 : numbers[0] * 10 + numbers[1];
}

const Release* ReleaseOf(std::string_view torch) {
  const std::string wanted = Leading(torch, 2);
  for (const Release& release : kReleases)
    if (wanted == release.torch) return &release;
  return nullptr;
}

}  // namespace

int CompareVersions(std::string_view a, std::string_view b) {
  auto left = Numbers(a), right = Numbers(b);
  const std::size_t most = std::max(left.size(), right.size());
  left.resize(most);
  right.resize(most);
  return left < right ? -1 : left > right ? 1 : 0;
}

std::string Leading(std::string_view version, int count) {
  std::string text;
  for (const int number : Numbers(version)) {
    if (count-- == 0) break;
    text += (text.empty() ? "" : ".") + std::to_string(number);
  }
  return text;
}

int Branch(std::string_view driver) {
  const auto numbers = Numbers(driver);
  return numbers.empty() ? 0 : numbers.front();
}

std::optional<Generation> GenerationOf(std::string_view capability, std::string_view pci_id) {
  const int tens = Tens(capability);
  const auto id = static_cast<unsigned>(std::strtoul(std::string(pci_id).c_str(), nullptr, 16));
  // Grace Hopper is told by its id alone: its capability is Hopper's.
  for (const Generations& one : kGenerations)
    if (id >= one.first_id && id <= one.last_id &&
        (tens == 0 || (tens >= one.first_capability && tens <= one.last_capability)))
      return one.generation;
  for (const Generations& one : kGenerations)
    if (tens != 0 && tens >= one.first_capability && tens <= one.last_capability &&
        one.generation.name != "Grace Hopper")
      return one.generation;
  return std::nullopt;
}

bool DataCentre(std::string_view name) {
  if (name.find("GeForce") != name.npos || name.find("TITAN") != name.npos) return false;
  for (const char* family : {"A100", "A800", "A30",   "A40",  "A10",  "A2",   "H100",  "H200",
                             "H800", "H20",  "GH200", "B100", "B200", "B300", "GB200", "GB300",
                             "L4",   "L40",  "T4",    "V100", "P100", "P40",  "Tesla"})
    if (name.find(family) != name.npos) return true;
  return false;
}

std::optional<std::string> ToolkitDriver(std::string_view cuda) {
  const std::string wanted = Leading(cuda, 2);
  for (const Toolkit& toolkit : kToolkits)
    if (wanted == toolkit.cuda) return toolkit.driver;
  return std::nullopt;
}

std::optional<std::string> DriverFloor(std::string_view cuda) {
  const std::string major = Leading(cuda, 1);
  if (major == "11") return "450.80.02";
  if (major == "12") return "525.60.13";
  if (major == "13") return "580.65.06";
  return std::nullopt;
}

std::optional<std::string> NewestCuda(std::string_view driver) {
  std::optional<std::string> newest;
  for (const Toolkit& toolkit : kToolkits)
    if (CompareVersions(driver, toolkit.driver) >= 0) newest = toolkit.cuda;
  return newest;
}

std::optional<GpuCode> CodeIn(std::string_view torch, std::string_view cuda) {
  const std::string version = Leading(cuda, 2);
  if (version == "11.8") return GpuCode{{"3.7", "5.0", "6.0", "7.0", "7.5", "8.0", "8.6", "9.0"}};
  if (version == "12.1" || version == "12.4" || version == "12.6")
    return GpuCode{{"5.0", "6.0", "7.0", "7.5", "8.0", "8.6", "9.0"}};
  if (version == "12.8" || version == "12.9") {
    GpuCode code{{"7.0", "7.5", "8.0", "8.6", "9.0", "10.0", "12.0"}};
    if (CompareVersions(torch, "2.11") >= 0) code.sass.erase(code.sass.begin());
    return code;
  }
  if (Leading(cuda, 1) == "13") return GpuCode{{"7.5", "8.0", "8.6", "9.0", "10.0", "12.0"}, true};
  return std::nullopt;
}

bool RunsOn(const GpuCode& code, std::string_view capability) {
  const auto wanted = Numbers(capability);
  if (wanted.size() < 2) return true;
  for (const std::string& one : code.sass) {
    const auto have = Numbers(one);
    if (have[0] == wanted[0] && have[1] <= wanted[1]) return true;
  }
  return code.ptx && !code.sass.empty() && CompareVersions(capability, code.sass.back()) >= 0;
}

std::string BranchEnd(int branch) {
  if (branch == 580 || branch == 595 || branch == 0) return "";
  if (branch == 535) return "June 2026";
  // Between the long-lived ones only the newest feature branches are served.
  return branch > 595 ? "" : "before autumn 2026";
}

std::optional<NcclDefect> KnownDefect(const NcclSetting& s) {
  const auto below = [&](const char* version) { return CompareVersions(s.version, version) < 0; };
  if (s.version.empty()) return std::nullopt;
  if (s.blackwell && below("2.25.1"))
    return NcclDefect{"NCCL before 2.25.1 does not know Blackwell GPUs", "use torch 2.7 or newer",
                      true};
  if (s.driver_branch == 560 && s.gpus > 1)
    return NcclDefect{"driver branch 560 hangs in peer-to-peer copies",
                      "update to branch 570 or newer", true};
  if (s.unlimited_stack && below("2.28"))
    return NcclDefect{"NCCL before 2.28 crashes where the stack is unlimited", "ulimit -s 65536",
                      true};
  if (s.aarch64 && below("2.29.3"))
    return NcclDefect{"NCCL before 2.29.3 may wedge silently on aarch64",
                      "use torch 2.14 for CUDA 12.6, or newer"};
  if (s.container && s.numa_less && !below("2.24") && CompareVersions(s.version, "2.26.5") < 0)
    return NcclDefect{
        "NCCL 2.24 to 2.26.4 fails to allocate host memory in containers without NUMA",
        "export NCCL_CUMEM_HOST_ENABLE=0"};
  if (Leading(s.version, 3) == "2.29.2")
    return NcclDefect{"NCCL 2.29.2 hangs", "use 2.29.3 or newer", true};
  if (s.virtual_machine && Leading(s.version, 2) == "2.29")
    return NcclDefect{
        "NCCL 2.29 fails to start where NVLS multicast cannot be bound, as in many virtual "
        "machines",
        "export NCCL_NVLS_ENABLE=0"};
  if (below("2.26.2"))
    return NcclDefect{"NCCL before 2.26.2 may hang in ncclCommAbort", "use torch 2.7 or newer"};
  if (!below("2.27.3") && below("2.27.7") && !s.blackwell)
    return NcclDefect{
        "NCCL 2.27.3 to 2.27.6 fails to start on some machines without Blackwell GPUs",
        "use torch 2.11 or newer"};
  if (below("2.28.7"))
    return NcclDefect{"NCCL before 2.28.7 may corrupt data in symmetric-memory kernels",
                      "use torch 2.11 or newer, or do not use symmetric memory"};
  return std::nullopt;
}

std::optional<std::string> VisionFor(std::string_view torch) {
  const Release* release = ReleaseOf(torch);
  return release == nullptr ? std::nullopt : std::optional<std::string>(release->vision);
}

std::optional<std::string> AudioFor(std::string_view torch) {
  const Release* release = ReleaseOf(torch);
  return release == nullptr ? std::nullopt : std::optional<std::string>(release->audio);
}

}  // namespace envkit::doctor
