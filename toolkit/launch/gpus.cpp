#include "launch/gpus.h"

#include <dlfcn.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>
#include <system_error>

namespace envkit {
namespace {

namespace fs = std::filesystem;

std::string FirstLine(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

struct GpuNode {
  std::string pci;
  std::string uuid;
  int minor = -1;
};

// /proc/driver/nvidia/gpus/0000:17:00.0/information, in the order of the bus.
std::vector<GpuNode> Devices(const HostFacts& facts, const fs::path& root) {
  std::vector<GpuNode> devices;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root / "proc/driver/nvidia/gpus", error)) {
    GpuNode device;
    device.pci = entry.path().filename();
    std::ifstream in(entry.path() / "information");
    for (std::string line; std::getline(in, line);) {
      const std::size_t colon = line.find(':');
      if (colon == std::string::npos) continue;
      const std::size_t value = line.find_first_not_of(" \t", colon + 1);
      if (value == std::string::npos) continue;
      if (line.starts_with("GPU UUID")) device.uuid = line.substr(value);
      if (line.starts_with("Device Minor")) device.minor = std::atoi(line.c_str() + value);
    }
    devices.push_back(std::move(device));
  }
  std::sort(devices.begin(), devices.end(),
            [](const GpuNode& a, const GpuNode& b) { return a.pci < b.pci; });
  // A container sees all of the host's GPUs there, and has nodes for its own alone.
  std::erase_if(devices, [&](const GpuNode& device) {
    return device.minor >= 0 && !facts.device_nodes.empty() &&
           std::find(facts.device_nodes.begin(), facts.device_nodes.end(), device.minor) ==
               facts.device_nodes.end();
  });
  const std::size_t present = std::max<std::size_t>(1, facts.device_nodes.size());
  if (devices.empty() && facts.pci_gpus.size() == present) {
    for (const PciGpu& gpu : facts.pci_gpus) devices.push_back({gpu.address, "", -1});
  }
  // WSL has neither; a usable GPU there is at least one.
  devices.resize(std::max(devices.size(), present));
  return devices;
}

// The PCI address of a MIG device's GPU.
std::string PciOfMig(const std::string& uuid, const std::string& library) {
  struct PciInfo {  // nvmlPciInfo_t
    char legacy[16];
    unsigned domain, bus, device, device_id, subsystem;
    char bus_id[32];
  };
  using Handle = void*;
  void* nvml = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (nvml == nullptr) return "";
  const auto function = [&]<class F>(const char* name, F*& to) {
    to = reinterpret_cast<F*>(dlsym(nvml, name));
    return to != nullptr;
  };
  int (*init)() = nullptr;
  int (*by_uuid)(const char*, Handle*) = nullptr;
  int (*parent)(Handle, Handle*) = nullptr;
  int (*pci_info)(Handle, PciInfo*) = nullptr;
  std::string address;
  Handle mig = nullptr;
  Handle gpu = nullptr;
  PciInfo info{};
  if (function("nvmlInit_v2", init) && function("nvmlDeviceGetHandleByUUID", by_uuid) &&
      function("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", parent) &&
      function("nvmlDeviceGetPciInfo_v3", pci_info) && init() == 0 &&
      by_uuid(uuid.c_str(), &mig) == 0 && parent(mig, &gpu) == 0 && pci_info(gpu, &info) == 0) {
    info.bus_id[sizeof info.bus_id - 1] = 0;
    address = info.bus_id;  // "00000000:17:00.0", and sysfs has four digits
    if (address.size() > 12) address = address.substr(address.size() - 12);
    std::transform(address.begin(), address.end(), address.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  }
  return address;  // the library stays loaded: it is gone with the first exec
}

std::vector<int> Common(const std::vector<int>& a, const std::vector<int>& b) {
  std::vector<int> both;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
  return both;
}

// CPUs by the number of their NUMA node, or of their socket.
std::map<int, std::vector<int>> Groups(bool sockets, const std::vector<int>& allowed,
                                       const fs::path& root) {
  std::map<int, std::vector<int>> groups;
  if (sockets) {
    for (const int cpu : allowed) {
      const std::string package =
          FirstLine(root / "sys/devices/system/cpu" / ("cpu" + std::to_string(cpu)) /
                    "topology/physical_package_id");
      if (!package.empty()) groups[std::atoi(package.c_str())].push_back(cpu);
    }
    return groups;
  }
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root / "sys/devices/system/node", error)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with("node") || name.find_first_not_of("0123456789", 4) != std::string::npos) {
      continue;
    }
    std::vector<int> cpus = Common(ParseCpuList(FirstLine(entry.path() / "cpulist")), allowed);
    if (!cpus.empty()) groups[std::atoi(name.c_str() + 4)] = std::move(cpus);
  }
  return groups;
}

}  // namespace

std::vector<VisibleGpu> VisibleGpus(const HostFacts& facts, const std::string* visible,
                                    const fs::path& root, const std::string& nvml) {
  const std::vector<GpuNode> devices = Devices(facts, root);
  std::vector<VisibleGpu> gpus;
  if (visible == nullptr) {
    for (std::size_t i = 0; i < devices.size(); ++i) {
      gpus.push_back({std::to_string(i), devices[i].uuid, devices[i].pci});
    }
    return gpus;
  }
  std::set<std::string> seen;
  for (std::string_view rest = *visible; !rest.empty();) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    std::string name(rest.substr(0, comma));
    rest.remove_prefix(std::min(comma + 1, rest.size()));
    std::erase(name, ' ');
    if (name.empty() || !seen.insert(name).second) break;
    if (name.starts_with("MIG-")) {
      gpus.push_back({name, name, PciOfMig(name, nvml)});
    } else if (name.starts_with("GPU-")) {
      const auto device = std::find_if(devices.begin(), devices.end(),
                                       [&](const GpuNode& d) { return d.uuid.starts_with(name); });
      const bool uuids_known = !devices.empty() && !devices.front().uuid.empty();
      if (device == devices.end() && uuids_known) break;
      gpus.push_back({name, name, device == devices.end() ? "" : device->pci});
    } else if (name.find_first_not_of("0123456789") == std::string::npos && name.size() < 5) {
      const std::size_t index = static_cast<std::size_t>(std::atoi(name.c_str()));
      if (index >= devices.size()) break;
      gpus.push_back({name, devices[index].uuid, devices[index].pci});
    } else {
      break;
    }
  }
  return gpus;
}

std::vector<int> ParseCpuList(const std::string& text) {
  std::set<int> cpus;
  for (const char* at = text.c_str(); *at != 0;) {
    char* end = nullptr;
    const long first = std::strtol(at, &end, 10);
    if (end == at) break;
    long last = first;
    if (*end == '-') last = std::strtol(end + 1, &end, 10);
    for (long cpu = first; cpu <= last && cpu < 1 << 16; ++cpu) cpus.insert(static_cast<int>(cpu));
    at = *end == ',' ? end + 1 : end;
    if (*end != ',') break;
  }
  return {cpus.begin(), cpus.end()};
}

std::vector<int> AllowedCpus() {
  std::vector<int> cpus;
  constexpr int kMost = 4096;
  cpu_set_t* set = CPU_ALLOC(kMost);
  const std::size_t size = CPU_ALLOC_SIZE(kMost);
  if (sched_getaffinity(0, size, set) == 0) {
    for (int cpu = 0; cpu < kMost; ++cpu) {
      if (CPU_ISSET_S(cpu, size, set)) cpus.push_back(cpu);
    }
  }
  CPU_FREE(set);
  return cpus;
}

std::vector<std::vector<int>> PlanBinding(const std::string& mode, int ranks,
                                          const std::vector<VisibleGpu>& gpus,
                                          const std::vector<int>& allowed, const fs::path& root) {
  std::vector<std::vector<int>> cpus(static_cast<std::size_t>(ranks));
  if (mode == "none") return cpus;
  const bool share = mode == "exclusive" || mode == "core-complex";
  const auto groups = Groups(mode == "socket", allowed, root);
  if (groups.empty() || (groups.size() < 2 && !share)) return cpus;
  std::vector<int> group_of(static_cast<std::size_t>(ranks));
  std::map<int, std::vector<std::size_t>> members;
  for (std::size_t rank = 0; rank < cpus.size(); ++rank) {
    int group = -1;
    if (!gpus.empty()) {
      const std::string& pci = gpus[rank % gpus.size()].pci;
      const fs::path device = root / "sys/bus/pci/devices" / pci;
      const std::string node = pci.empty() ? "" : FirstLine(device / "numa_node");
      if (!node.empty()) group = std::atoi(node.c_str());
      if (mode == "socket" && group >= 0) {  // sockets have numbers of their own
        const auto near = Common(ParseCpuList(FirstLine(device / "local_cpulist")), allowed);
        group = -1;
        for (const auto& [number, of_it] : groups) {
          if (!Common(near, of_it).empty()) group = number;
        }
      }
    } else {  // neighbours share a node: ranks are spread over the nodes in blocks
      group =
          std::next(groups.begin(), static_cast<std::ptrdiff_t>(rank * groups.size() / cpus.size()))
              ->first;
    }
    group_of[rank] = group;
    if (groups.contains(group)) members[group].push_back(rank);
  }
  for (const auto& [group, of_it] : members) {
    const std::vector<int>& all = groups.at(group);
    for (std::size_t i = 0; i < of_it.size(); ++i) {
      const bool enough = share && all.size() >= of_it.size();
      const std::size_t from = enough ? all.size() * i / of_it.size() : 0;
      const std::size_t to = enough ? all.size() * (i + 1) / of_it.size() : all.size();
      cpus[of_it[i]].assign(all.begin() + static_cast<std::ptrdiff_t>(from),
                            all.begin() + static_cast<std::ptrdiff_t>(to));
    }
  }
  return cpus;
}

}  // namespace envkit
