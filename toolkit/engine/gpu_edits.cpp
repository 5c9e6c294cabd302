#include "engine/gpu_edits.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

namespace envkit {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kDriverDirectory = "/opt/envkit/driver";

// The driver's own libraries for computing, by the name that programs open. What PyTorch, NCCL,
// nvidia-smi and NVML clients load; nothing for displays.
constexpr std::string_view kLibraries[] = {
    "libcuda.so.1",          "libnvidia-ml.so.1",     "libnvidia-ptxjitcompiler.so.1",
    "libnvidia-nvvm.so.4",   "libnvidia-opencl.so.1", "libnvidia-cfg.so.1",
    "libnvidia-gpucomp.so.", "libcudadebugger.so.1",  "libnvidia-allocator.so.1",
    "libnvidia-pkcs11.so.",  "libnvidia-nvvm70.so.4",
};

bool IsDriverLibrary(std::string_view soname) {
  return std::any_of(std::begin(kLibraries), std::end(kLibraries), [&](std::string_view name) {
    return name.back() == '.' ? soname.substr(0, name.size()) == name : soname == name;
  });
}

// Docker's spelling "nvidia.com/gpu=0" is the device "0".
std::vector<std::string> ShortNames(std::vector<std::string> devices) {
  constexpr std::string_view kKind = "nvidia.com/gpu=";
  for (std::string& device : devices)
    if (device.rfind(kKind, 0) == 0) device.erase(0, kKind.size());
  return devices;
}

bool IsDigits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == text.npos;
}

void AddEdits(const json& edits, GpuEdits& out) {
  for (const json& text : edits.value("env", json::array())) {
    const std::string entry = text.get<std::string>();
    if (auto at = entry.find('='); at != entry.npos)
      out.env[entry.substr(0, at)] = entry.substr(at + 1);
  }
  for (const json& node : edits.value("deviceNodes", json::array()))
    out.devices.push_back(node.at("path"));
  for (const json& mount : edits.value("mounts", json::array())) {
    out.mounts.push_back(
        {fs::path(mount.at("hostPath").get<std::string>()), mount.at("containerPath"), true});
  }
  for (const json& hook : edits.value("hooks", json::array())) {
    out.hooks.push_back({hook.at("hookName"), hook.at("path"),
                         hook.value("args", std::vector<std::string>{}),
                         hook.value("env", std::vector<std::string>{})});
  }
}

// "	libcuda.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libcuda.so.1"
std::map<std::string, std::string> DriverLibraries(std::string_view ldconfig) {
  std::map<std::string, std::string> found;
  while (!ldconfig.empty()) {
    std::string_view line = ldconfig.substr(0, ldconfig.find('\n'));
    ldconfig.remove_prefix(std::min(ldconfig.size(), line.size() + 1));
    const auto start = line.find_first_not_of(" \t");
    const auto open = line.find(" (");
    const auto arrow = line.find(" => ");
    if (start == line.npos || open == line.npos || arrow == line.npos || open < start) continue;
    // 32-bit libraries are listed as plain "libc6".
    std::string_view kind = line.substr(open + 2, arrow - open - 2);
    if (kind.find("64") == kind.npos) continue;
    std::string soname(line.substr(start, open - start));
    if (IsDriverLibrary(soname)) found.emplace(soname, line.substr(arrow + 4));
  }
  return found;
}

// Where drivers are when the linker's cache does not name them.
std::map<std::string, std::string> DriverLibrariesIn(const fs::path& root) {
  std::map<std::string, std::string> found;
  for (const char* directory :
       {"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib/wsl/lib",
        "/run/opengl-driver/lib", "/usr/local/nvidia/lib64"}) {
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(root / (directory + 1), ignored)) {
      std::string soname = entry.path().filename();
      if (IsDriverLibrary(soname)) found.emplace(soname, fmt::format("{}/{}", directory, soname));
    }
  }
  return found;
}

std::vector<std::string> DeviceNodes(const fs::path& root,
                                     const std::vector<std::string>& devices) {
  std::set<std::string> nodes;
  std::error_code ignored;
  bool gpu = false;
  for (const auto& entry : fs::directory_iterator(root / "dev", ignored)) {
    const std::string name = entry.path().filename();
    if (name.rfind("nvidia", 0) != 0) {
      if (name == "dxg") gpu = true, nodes.insert("/dev/dxg");
      continue;
    }
    const std::string rest = name.substr(6);
    if (IsDigits(rest)) {
      if (!devices.empty() && std::find(devices.begin(), devices.end(), rest) == devices.end())
        continue;
      gpu = true;
    } else if (rest != "ctl" && rest != "-uvm" && rest != "-uvm-tools" && rest != "-modeset") {
      continue;
    }
    nodes.insert("/dev/" + name);
  }
  for (const auto& entry : fs::directory_iterator(root / "dev/nvidia-caps", ignored))
    nodes.insert("/dev/nvidia-caps/" + entry.path().filename().string());
  if (!gpu) nodes.clear();
  return {nodes.begin(), nodes.end()};
}

}  // namespace

Result<GpuEdits> CdiEdits(std::string_view text, const std::string& file,
                          const std::vector<std::string>& devices) {
  try {
    const json spec = json::parse(text);
    if (spec.value("kind", "") != "nvidia.com/gpu")
      return Missing(file + " is not for NVIDIA GPUs");
    GpuEdits edits;
    edits.source = file;
    std::vector<std::string> wanted = ShortNames(devices);
    if (wanted.empty()) wanted = {"all"};
    std::vector<std::string> names;
    for (const std::string& name : wanted) {
      bool found = false;
      names.clear();
      for (const json& device : spec.at("devices")) {
        names.push_back(device.at("name"));
        if (names.back() != name) continue;
        found = true;
        AddEdits(device.value("containerEdits", json::object()), edits);
      }
      if (!found)
        return Missing(
            fmt::format("{} has no device \"{}\" (it has {})", file, name, fmt::join(names, ", ")),
            "Make it anew: sudo nvidia-ctk cdi generate --format=json --output=" + file);
    }
    AddEdits(spec.value("containerEdits", json::object()), edits);
    std::sort(edits.devices.begin(), edits.devices.end());
    edits.devices.erase(std::unique(edits.devices.begin(), edits.devices.end()),
                        edits.devices.end());
    return edits;
  } catch (const json::exception& error) {
    return Missing(fmt::format("{} is not a valid CDI specification: {}", file, error.what()),
                   "Make it anew: sudo nvidia-ctk cdi generate --format=json --output=" + file);
  }
}

Result<GpuEdits> FindGpuEdits(const fs::path& root, const std::vector<std::string>& devices,
                              std::string_view ldconfig) {
  for (const char* directory : {"etc/cdi", "var/run/cdi"}) {
    std::vector<fs::path> files;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(root / directory, ignored))
      if (entry.path().extension() == ".json") files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    for (const fs::path& file : files) {
      std::ifstream in(file);
      std::string text{std::istreambuf_iterator<char>(in), {}};
      if (text.find("\"nvidia.com/gpu\"") == text.npos) continue;
      return CdiEdits(text, "/" + file.lexically_relative(root).string(), devices);
    }
  }
  GpuEdits edits;
  edits.source = "driver files of this host";
  const std::vector<std::string> wanted = ShortNames(devices);
  if (DeviceNodes(root, {}).empty())
    return Missing("no GPU's device node is in /dev", "See: envkit doctor");
  edits.devices = DeviceNodes(root, wanted);
  for (const std::string& device : wanted) {
    if (std::count(edits.devices.begin(), edits.devices.end(), "/dev/nvidia" + device) == 0 &&
        std::count(edits.devices.begin(), edits.devices.end(), "/dev/dxg") == 0)
      return Missing(fmt::format("the GPU \"{0}\" has no device node /dev/nvidia{0}", device),
                     "Without a CDI specification GPUs go by their number; see: envkit doctor");
  }
  auto libraries = DriverLibraries(ldconfig);
  if (!libraries.count("libcuda.so.1")) libraries.merge(DriverLibrariesIn(root));
  if (!libraries.count("libcuda.so.1"))
    return Missing("the NVIDIA driver's libcuda.so.1 was not found on this host",
                   "Install the driver's user-space libraries (Debian: sudo apt-get install "
                   "libcuda1 nvidia-smi), or see: envkit doctor");
  for (const auto& [soname, path] : libraries)
    edits.mounts.push_back({path, fmt::format("{}/{}", kDriverDirectory, soname), true});
  std::error_code ignored;
  if (fs::exists(root / "usr/bin/nvidia-smi", ignored))
    edits.mounts.push_back({"/usr/bin/nvidia-smi", "/usr/bin/nvidia-smi", true});
  edits.env["LD_LIBRARY_PATH"] = kDriverDirectory;
  return edits;
}

}  // namespace envkit
