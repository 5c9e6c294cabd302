#include <algorithm>

#include "doctor/probes/probes.h"

namespace envkit::doctor {
namespace {

std::uint32_t Word(const std::string& bytes, std::size_t at, int size) {
  std::uint32_t value = 0;
  if (at + static_cast<std::size_t>(size) > bytes.size()) return 0;
  for (int i = size - 1; i >= 0; --i)
    value = value << 8 | static_cast<unsigned char>(bytes[at + static_cast<std::size_t>(i)]);
  return value;
}

// Walks the extended capabilities of a bridge's configuration for ACS (id 13) and says whether
// source validation is on: then peer-to-peer goes up to the root complex, where it may be lost.
bool SourceValidation(const std::string& config) {
  constexpr std::size_t kFirst = 0x100;
  constexpr std::uint32_t kAcs = 0x0d;
  constexpr int kMostCapabilities = 64;
  std::size_t at = kFirst;
  for (int i = 0; i < kMostCapabilities && at >= kFirst && at + 8 <= config.size(); ++i) {
    const std::uint32_t header = Word(config, at, 4);
    if ((header & 0xffff) == kAcs) return (Word(config, at + 6, 2) & 1) != 0;
    at = header >> 20;
  }
  return false;
}

int SmallNumber(const std::string& text) {
  const auto value = ToInteger(text);
  return value && *value >= -1 && *value < 1024 ? static_cast<int>(*value) : 0;
}

}  // namespace

void ProbePci(const Root& root, PciFacts& facts) {
  const std::string devices = "/sys/bus/pci/devices";
  facts.bus = root.Exists(devices);
  facts.acs_bridges.from = devices + "/*/config";
  std::vector<std::string> bridges;
  bool readable = true;
  for (const std::string& address : root.List(devices)) {
    const std::string device = devices + "/" + address;
    const std::string kind = root.ReadLine(device + "/class");
    if (kind.starts_with("0x0604")) {
      const std::string config = root.Read(device + "/config");
      readable = readable && config.size() > 256;
      if (SourceValidation(config)) bridges.push_back(address);
    }
    if (root.ReadLine(device + "/vendor") != "0x10de") continue;
    if (kind.starts_with("0x0680")) ++facts.nvswitches;
    if (!kind.starts_with("0x03")) continue;
    PciDevice gpu;
    gpu.address = address;
    gpu.id = root.ReadLine(device + "/device");
    gpu.driver = root.LinkName(device + "/driver");
    gpu.numa_node = SmallNumber(root.ReadLine(device + "/numa_node"));
    gpu.link_width = SmallNumber(root.ReadLine(device + "/current_link_width"));
    gpu.max_link_width = SmallNumber(root.ReadLine(device + "/max_link_width"));
    facts.gpus.push_back(std::move(gpu));
  }
  if (readable) {
    facts.acs_bridges.value = std::move(bridges);
  } else {
    facts.acs_bridges.unknown = "only root may read the bridges' extended configuration";
  }
  const auto groups = root.List("/sys/kernel/iommu_groups");
  facts.iommu_groups = {static_cast<std::int64_t>(groups.size()), "/sys/kernel/iommu_groups", ""};
  facts.iommu_type.from = "/sys/kernel/iommu_groups/*/type";
  // The type of a GPU's own group; any other may differ.
  for (const PciDevice& gpu : facts.gpus) {
    const std::string group = root.LinkName(devices + "/" + gpu.address + "/iommu_group");
    if (group.empty()) continue;
    facts.iommu_type = root.Line("/sys/kernel/iommu_groups/" + group + "/type");
    break;
  }
  if (!facts.bus) facts.unknown = "there is no PCI bus to look at (/sys/bus/pci)";
}

}  // namespace envkit::doctor
