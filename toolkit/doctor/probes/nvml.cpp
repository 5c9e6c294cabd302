// NVIDIA's management library by dlopen: whatever of its functions is missing in an old driver is
// noted and not called. This runs in a child with a time limit, because a sick driver hangs or
// crashes here first.
#include <dlfcn.h>
#include <fmt/format.h>
#include <link.h>

#include <array>
#include <cstring>

#include "doctor/facts_json.h"
#include "doctor/probes/probes.h"

namespace envkit::doctor {
namespace {

// The library's own types, as its ABI has had them since they were introduced.
using Device = void*;
struct PciInfo {
  char bus_id_legacy[16];
  unsigned domain, bus, device, id, subsystem;
  char bus_id[32];
};
struct Memory {
  unsigned long long total, free, used;
};
struct Process {
  unsigned pid;
  unsigned long long memory;
  unsigned gpu_instance, compute_instance;
};
struct FieldValue {
  unsigned field, scope;
  long long timestamp, latency;
  int type, result;
  union {
    double d;
    unsigned u;
    unsigned long long ull;
  } value;
};
struct FabricInfo {
  unsigned char cluster[16];
  int status;
  unsigned clique;
  unsigned char state;
};

constexpr int kOk = 0, kInsufficientSize = 7, kNoFunction = 13;

std::string CodeText(int code) {
  static const std::map<int, const char*> kNames = {
      {1, "not initialised"},
      {2, "invalid argument"},
      {3, "not supported"},
      {4, "no permission"},
      {6, "not found"},
      {9, "the driver is not loaded"},
      {10, "timeout"},
      {11, "interrupt request problem"},
      {12, "library not found"},
      {13, "function not found"},
      {14, "the info ROM is corrupt"},
      {15, "GPU is lost"},
      {16, "GPU requires a reset"},
      {17, "the operating system or a cgroup blocks it"},
      {18, "driver and library versions differ"},
      {19, "in use"},
      {20, "out of memory"},
      {999, "unknown error"}};
  const auto found = kNames.find(code);
  return fmt::format("{} ({})", found == kNames.end() ? "error" : found->second, code);
}

class NvmlLibrary {
 public:
  NvmlLibrary(void* handle, NvmlFacts& facts, const Publish& publish)
      : handle_(handle), facts_(facts), publish_(publish) {}

  // Calls the first of NAMES ("a|b") that this library has.
  template <class... Arguments>
  int Call(std::string_view names, Arguments... arguments) {
    using Function = int (*)(Arguments...);
    const auto function = reinterpret_cast<Function>(Find(names));
    return function == nullptr ? kNoFunction : function(arguments...);
  }

  void Step(std::string what) {
    facts_.step = std::move(what);
    publish_();
  }

 private:
  void* Find(std::string_view names) {
    const std::string_view first = names.substr(0, names.find('|'));
    for (std::string_view rest = names; !rest.empty();) {
      const std::string_view name = rest.substr(0, rest.find('|'));
      if (void* symbol = dlsym(handle_, std::string(name).c_str())) return symbol;
      rest.remove_prefix(std::min(rest.size(), name.size() + 1));
    }
    auto& missing = facts_.missing_functions;
    if (std::find(missing.begin(), missing.end(), first) == missing.end())
      missing.emplace_back(first);
    return nullptr;
  }

  void* handle_;
  NvmlFacts& facts_;
  const Publish& publish_;
};

Text AskText(NvmlLibrary& nvml, const char* function) {
  std::array<char, 128> buffer{};
  Text fact;
  fact.from = function;
  const int code = nvml.Call(function, buffer.data(), static_cast<unsigned>(buffer.size()));
  if (code == kOk) {
    fact.value = std::string(buffer.data(), strnlen(buffer.data(), buffer.size()));
  } else {
    fact.unknown = CodeText(code);
  }
  return fact;
}

std::string DeviceText(NvmlLibrary& nvml, const char* function, Device device) {
  std::array<char, 128> buffer{};
  if (nvml.Call(function, device, buffer.data(), static_cast<unsigned>(buffer.size())) != kOk)
    return "";
  return std::string(buffer.data(), strnlen(buffer.data(), buffer.size()));
}

std::optional<std::int64_t> DeviceNumber(NvmlLibrary& nvml, const char* function, Device device) {
  unsigned value = 0;
  if (nvml.Call(function, device, &value) != kOk) return std::nullopt;
  return value;
}

void AskMig(NvmlLibrary& nvml, Device device, Gpu& gpu) {
  unsigned current = 0, pending = 0;
  if (nvml.Call("nvmlDeviceGetMigMode", device, &current, &pending) != kOk) return;
  gpu.mig = current == 1;
  unsigned count = 0;
  if (!*gpu.mig || nvml.Call("nvmlDeviceGetMaxMigDeviceCount", device, &count) != kOk) return;
  constexpr unsigned kMostInstances = 64;
  for (unsigned i = 0; i < std::min(count, kMostInstances); ++i) {
    Device instance = nullptr;
    if (nvml.Call("nvmlDeviceGetMigDeviceHandleByIndex", device, i, &instance) != kOk) continue;
    const std::string uuid = DeviceText(nvml, "nvmlDeviceGetUUID", instance);
    if (!uuid.empty()) gpu.mig_devices.push_back(uuid);
  }
}

void AskProcesses(NvmlLibrary& nvml, Device device, const Root& root, Gpu& gpu) {
  std::array<Process, 128> processes{};
  auto count = static_cast<unsigned>(processes.size());
  const int code =
      nvml.Call("nvmlDeviceGetComputeRunningProcesses_v3|nvmlDeviceGetComputeRunningProcesses_v2",
                device, &count, processes.data());
  if (code != kOk && code != kInsufficientSize) return;
  constexpr unsigned long long kNotAvailable = ~0ull;
  for (unsigned i = 0; i < std::min<unsigned>(count, processes.size()); ++i) {
    const Process& one = processes[i];
    gpu.processes.push_back(
        {one.pid, root.ReadLine(fmt::format("/proc/{}/comm", one.pid)),
         one.memory == kNotAvailable ? 0 : static_cast<std::int64_t>(one.memory)});
  }
}

void AskHealth(NvmlLibrary& nvml, Device device, Gpu& gpu) {
  unsigned long long wide = 0;
  constexpr int kUncorrected = 1, kVolatile = 0;
  if (nvml.Call("nvmlDeviceGetTotalEccErrors", device, kUncorrected, kVolatile, &wide) == kOk)
    gpu.ecc_uncorrected = static_cast<std::int64_t>(wide);
  unsigned correctable = 0, uncorrectable = 0, pending = 0, failed = 0;
  if (nvml.Call("nvmlDeviceGetRemappedRows", device, &correctable, &uncorrectable, &pending,
                &failed) == kOk) {
    gpu.rows_correctable = correctable;
    gpu.rows_uncorrectable = uncorrectable;
    gpu.rows_pending = pending != 0;
    gpu.rows_failed = failed != 0;
  }
  if (nvml.Call("nvmlDeviceGetCurrentClocksEventReasons|nvmlDeviceGetCurrentClocksThrottleReasons",
                device, &wide) == kOk)
    gpu.clock_reasons = static_cast<std::int64_t>(wide);
  constexpr unsigned kRecoveryAction = 230;
  FieldValue field{};
  field.field = kRecoveryAction;
  if (nvml.Call("nvmlDeviceGetFieldValues", device, 1, &field) == kOk && field.result == kOk)
    gpu.recovery_action = field.value.u;
  FabricInfo fabric{};
  if (nvml.Call("nvmlDeviceGetGpuFabricInfo", device, &fabric) == kOk) {
    gpu.fabric_state = fabric.state;
    gpu.fabric_status = fabric.status;
  }
  constexpr unsigned kMostLinks = 18;
  for (unsigned link = 0; link < kMostLinks; ++link) {
    unsigned active = 0;
    if (nvml.Call("nvmlDeviceGetNvLinkState", device, link, &active) != kOk) break;
    gpu.nvlinks.push_back(active == 1 ? 1 : 0);
  }
}

void AskGpu(NvmlLibrary& nvml, Device device, const Root& root, Gpu& gpu) {
  PciInfo pci{};
  if (nvml.Call("nvmlDeviceGetPciInfo_v3|nvmlDeviceGetPciInfo_v2", device, &pci) == kOk)
    gpu.pci = fmt::format("{:04x}:{:02x}:{:02x}.0", pci.domain, pci.bus, pci.device);
  gpu.name = DeviceText(nvml, "nvmlDeviceGetName", device);
  gpu.uuid = DeviceText(nvml, "nvmlDeviceGetUUID", device);
  int major = 0, minor = 0;
  if (nvml.Call("nvmlDeviceGetCudaComputeCapability", device, &major, &minor) == kOk)
    gpu.compute_capability = fmt::format("{}.{}", major, minor);
  Memory memory{};
  const int code = nvml.Call("nvmlDeviceGetMemoryInfo", device, &memory);
  if (code == kOk) {
    gpu.memory_total = static_cast<std::int64_t>(memory.total);
    gpu.memory_free = static_cast<std::int64_t>(memory.free);
  }
  // A GPU that fell off the bus still has a handle in some drivers.
  constexpr int kLost = 15, kNeedsReset = 16;
  if (code == kLost || code == kNeedsReset) {
    gpu.error = CodeText(code);
    return;
  }
  AskHealth(nvml, device, gpu);
  gpu.link_width = DeviceNumber(nvml, "nvmlDeviceGetCurrPcieLinkWidth", device);
  gpu.max_link_width = DeviceNumber(nvml, "nvmlDeviceGetMaxPcieLinkWidth", device);
  gpu.link_generation = DeviceNumber(nvml, "nvmlDeviceGetCurrPcieLinkGeneration", device);
  gpu.max_link_generation = DeviceNumber(nvml, "nvmlDeviceGetMaxPcieLinkGeneration", device);
  if (const auto on = DeviceNumber(nvml, "nvmlDeviceGetPersistenceMode", device))
    gpu.persistence = *on == 1;
  gpu.compute_mode = DeviceNumber(nvml, "nvmlDeviceGetComputeMode", device);
  gpu.power_limit = DeviceNumber(nvml, "nvmlDeviceGetEnforcedPowerLimit", device);
  gpu.default_power_limit = DeviceNumber(nvml, "nvmlDeviceGetPowerManagementDefaultLimit", device);
  unsigned temperature = 0;
  if (nvml.Call("nvmlDeviceGetTemperature", device, 0, &temperature) == kOk)
    gpu.temperature = temperature;
  AskMig(nvml, device, gpu);
  AskProcesses(nvml, device, root, gpu);
}

void AskTopology(NvmlLibrary& nvml, const std::vector<Device>& devices, std::vector<Gpu>& gpus) {
  for (std::size_t a = 0; a < devices.size(); ++a) {
    for (std::size_t b = 0; b < devices.size(); ++b) {
      unsigned level = 0;
      int status = 0;
      if (a == b || devices[a] == nullptr || devices[b] == nullptr) {
        gpus[a].topology.push_back(0);
        gpus[a].p2p.push_back(0);
        continue;
      }
      const bool known =
          nvml.Call("nvmlDeviceGetTopologyCommonAncestor", devices[a], devices[b], &level) == kOk;
      gpus[a].topology.push_back(known ? static_cast<int>(level) : -1);
      constexpr int kRead = 0;
      const bool answered =
          nvml.Call("nvmlDeviceGetP2PStatus", devices[a], devices[b], kRead, &status) == kOk;
      gpus[a].p2p.push_back(answered ? status : -1);
    }
  }
}

}  // namespace

void ProbeNvml(const Root& root, NvmlFacts& facts, const Publish& publish) {
  if (!root.live()) {  // a captured tree has the section as a file
    const std::string kept = root.Read("/.envkit/nvml.json");
    Facts read;
    if (!kept.empty()) ReadSection("nvml", nlohmann::json::parse(kept, nullptr, false), read);
    facts = read.nvml;
    return;
  }
  facts.step = "loading libnvidia-ml.so.1";
  publish();
  void* handle = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  for (const char* elsewhere :
       {"/usr/lib/wsl/lib/libnvidia-ml.so.1", "/run/opengl-driver/lib/libnvidia-ml.so.1",
        "/usr/local/nvidia/lib64/libnvidia-ml.so.1"}) {
    if (handle == nullptr && facts.load_error.empty()) facts.load_error = dlerror();
    if (handle == nullptr && root.Exists(elsewhere)) handle = dlopen(elsewhere, RTLD_NOW);
  }
  if (handle == nullptr) {
    facts.step.clear();
    return;
  }
  facts.load_error.clear();
  facts.present = true;
  if (link_map* map = nullptr; dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && map != nullptr)
    facts.library = root.Real(map->l_name).string();
  NvmlLibrary nvml(handle, facts, publish);
  nvml.Step("nvmlInit");
  facts.init.from = "nvmlInit_v2";
  facts.init.value = nvml.Call("nvmlInit_v2|nvmlInit");
  facts.nvml_version = AskText(nvml, "nvmlSystemGetNVMLVersion");
  if (*facts.init != kOk) {
    facts.step.clear();
    return;
  }
  facts.driver_version = AskText(nvml, "nvmlSystemGetDriverVersion");
  int cuda = 0;
  facts.cuda_version.from = "nvmlSystemGetCudaDriverVersion_v2";
  const int cuda_code =
      nvml.Call("nvmlSystemGetCudaDriverVersion_v2|nvmlSystemGetCudaDriverVersion", &cuda);
  if (cuda_code == kOk) facts.cuda_version.value = cuda;
  if (cuda_code != kOk) facts.cuda_version.unknown = CodeText(cuda_code);
  unsigned count = 0;
  facts.count.from = "nvmlDeviceGetCount_v2";
  const int count_code = nvml.Call("nvmlDeviceGetCount_v2|nvmlDeviceGetCount", &count);
  if (count_code != kOk) facts.count.unknown = CodeText(count_code);
  if (count_code == kOk) facts.count.value = count;
  constexpr unsigned kMostGpus = 64;
  count = std::min(count, kMostGpus);
  std::vector<Device> devices(count, nullptr);
  for (unsigned i = 0; i < count; ++i) {
    nvml.Step(fmt::format("asking for GPU {}", i));
    Gpu gpu;
    gpu.index = static_cast<int>(i);
    const int code =
        nvml.Call("nvmlDeviceGetHandleByIndex_v2|nvmlDeviceGetHandleByIndex", i, &devices[i]);
    if (code != kOk) {
      gpu.error = CodeText(code);
      devices[i] = nullptr;
    } else {
      AskGpu(nvml, devices[i], root, gpu);
    }
    facts.gpus.push_back(std::move(gpu));
  }
  nvml.Step("asking for the topology");
  AskTopology(nvml, devices, facts.gpus);
  // No nvmlShutdown: the process ends here, and a sick driver hangs in it.
  facts.step.clear();
}

}  // namespace envkit::doctor
