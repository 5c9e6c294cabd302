// The few figures of the version matrix that rules need, in one place: generations of GPUs, driver
// floors, what GPU code the wheels hold, what of NCCL and of the toolkit is known to be bad.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace envkit::doctor {

// -1, 0, 1 by numbers: "570.86.15" < "580.95".
int CompareVersions(std::string_view a, std::string_view b);
// The first COUNT numbers: MajorMinor("13.0.1", 1) is "13".
std::string Leading(std::string_view version, int count);
int Branch(std::string_view driver);  // 580; 0 where it is no version

struct Generation {
  std::string name;          // "Blackwell"
  std::string capability;    // the least of its compute capabilities
  int first_branch = 0;      // of the drivers that know it
  bool open_only = false;    // needs the open kernel modules
  bool closed_only = false;  // has no open ones; ends with branch 580
};
// By the compute capability, or, where no driver answers, by the PCI device id ("0x2330").
std::optional<Generation> GenerationOf(std::string_view capability, std::string_view pci_id);
bool DataCentre(std::string_view gpu_name);  // of the families that cuda-compat serves

// The driver that came with this toolkit, and the least that runs it ("12.8" → 570.26, 525.60.13).
std::optional<std::string> ToolkitDriver(std::string_view cuda);
std::optional<std::string> DriverFloor(std::string_view cuda);
// The newest CUDA for which this driver was made, such as "12.4" for 550.54.
std::optional<std::string> NewestCuda(std::string_view driver);

// Compute capabilities in a wheel of this torch and CUDA, on x86-64; PTX: compiled upward by the
// driver.
struct GpuCode {
  std::vector<std::string> sass;
  bool ptx = false;
};
std::optional<GpuCode> CodeIn(std::string_view torch, std::string_view cuda);
bool RunsOn(const GpuCode& code, std::string_view capability);

// When a driver branch is no longer maintained: "2026-06"; "" while it is.
std::string BranchEnd(int branch);

struct NcclDefect {
  std::string what, way_out;
  bool serious = false;
};
struct NcclSetting {
  std::string version, torch;
  int driver_branch = 0;
  bool blackwell = false, unlimited_stack = false, container = false, numa_less = false,
       virtual_machine = false, aarch64 = false;
  int gpus = 0;
};
std::optional<NcclDefect> KnownDefect(const NcclSetting& setting);

// torchvision's and torchaudio's release for a torch release: "0.26" for "2.11".
std::optional<std::string> VisionFor(std::string_view torch);
std::optional<std::string> AudioFor(std::string_view torch);

}  // namespace envkit::doctor
