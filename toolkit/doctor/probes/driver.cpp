#include <grp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "doctor/probes/probes.h"

namespace envkit::doctor {
namespace {

namespace fs = std::filesystem;

void ProbeModule(const Root& root, DriverFacts& facts) {
  const std::string text = root.Read("/proc/driver/nvidia/version");
  const Text sys = root.Line("/sys/module/nvidia/version");
  facts.open_module.from = "/proc/driver/nvidia/version";
  const std::size_t at = text.find("Kernel Module");
  if (at != std::string::npos) {
    facts.open_module.value = text.find("Open Kernel Module") != std::string::npos;
    const std::string version = FirstVersion(text.substr(at, text.find('\n', at) - at));
    if (!version.empty()) facts.module_version = {version, "/proc/driver/nvidia/version", ""};
  }
  // Some sandboxes have no /sys/module and some no /proc/driver: either will do.
  if (sys && !sys->empty()) facts.module_version = sys;
  if (facts.module_version.from.empty()) facts.module_version.from = "/sys/module/nvidia/version";
  if (!facts.module_version && !sys.Known()) facts.module_version.unknown = sys.unknown;

  facts.nouveau = root.Exists("/sys/module/nouveau");
  facts.uvm = root.Exists("/sys/module/nvidia_uvm");
  facts.peermem = root.Exists("/sys/module/nvidia_peermem");
  const std::string kernel = root.ReadLine("/proc/sys/kernel/osrelease");
  facts.headers = !kernel.empty() && root.Exists("/lib/modules/" + kernel + "/build");
  for (const char* directory : {"/etc/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"})
    for (const std::string& name : root.List(directory))
      for (const std::string& line : Lines(root.Read(std::string(directory) + "/" + name)))
        if (line.starts_with("blacklist nouveau")) facts.nouveau_blacklisted = true;
}

// /var/lib/dkms/nvidia/580.95.05/6.1.0-25-amd64/x86_64/module: built; the kernel's own directory
// tells whether it is installed.
void ProbeDkms(const Root& root, DriverFacts& facts) {
  const std::string base = "/var/lib/dkms";
  const std::string kernel = root.ReadLine("/proc/sys/kernel/osrelease");
  facts.disk_module_version.from = "/var/lib/dkms, /lib/modules";
  for (const std::string& name : root.List(base)) {
    if (!name.starts_with("nvidia")) continue;
    for (const std::string& version : root.List(base + "/" + name)) {
      if (FirstVersion(version).empty()) continue;
      std::string state = "added, not built";
      for (const std::string& built : root.List(base + "/" + name + "/" + version)) {
        if (built == "source" || built == "build") continue;
        if (built == kernel) {
          state = "built for " + built;
          facts.disk_module_version.value = FirstVersion(version);
          break;
        }
        state = "built for " + built + ", not for the running " + kernel;
      }
      facts.dkms.push_back(name + "/" + version + ": " + state);
    }
  }
}

void ProbeNodes(const Root& root, DriverFacts& facts) {
  for (const std::string& name : root.List("/dev")) {
    if (name.starts_with("nvidia-nvswitch")) facts.nvswitch_nodes = true;
    if (!name.starts_with("nvidia") || name == "nvidia-caps" || name == "nvidia-caps-imex-channels")
      continue;
    DeviceNode node;
    node.path = "/dev/" + name;
    if (root.live()) {
      node.usable = access(node.path.c_str(), R_OK | W_OK) == 0;
      struct stat info {};
      if (stat(node.path.c_str(), &info) == 0)
        if (const group* entry = getgrgid(info.st_gid)) node.group = entry->gr_name;
    } else {
      // A captured tree's node is a plain file: "closed GROUP" in it stands for its rights.
      const std::string kept = root.ReadLine(node.path);
      node.usable = !kept.starts_with("closed");
      if (!node.usable) node.group = Trimmed(std::string_view(kept).substr(6));
    }
    facts.nodes.push_back(std::move(node));
  }
  for (const std::string& name : root.List("/dev/char"))
    facts.char_links = facts.char_links || name.starts_with("195:");
}

// "libcuda.so.580.95.05" → "580.95.05"
std::string VersionInName(const std::string& name) {
  const std::size_t at = name.find(".so.");
  return at == std::string::npos ? "" : FirstVersion(name.substr(at + 4));
}

void AddCopy(const Root& root, const std::string& soname, const std::string& path,
             const std::string& found_by, DriverFacts& facts) {
  if (!root.Exists(path)) return;
  const fs::path real = root.Real(path);
  LibraryCopy copy;
  copy.name = soname;
  copy.path = root.live() ? real.string() : "/" + real.lexically_relative(root.prefix()).string();
  copy.version = VersionInName(real.filename().string());
  copy.found_by = found_by;
  copy.first = true;
  for (const LibraryCopy& other : facts.libraries) {
    if (other.name != soname) continue;
    copy.first = false;
    if (other.path == copy.path) return;
  }
  // Compat libraries are not on the loader's path unless somebody puts them there.
  if (found_by == "cuda-compat") copy.first = false;
  facts.libraries.push_back(std::move(copy));
}

std::vector<std::string> SplitPath(const std::string& text) {
  std::vector<std::string> parts;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find(':', at), text.size());
    if (end > at) parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

// In the loader's order: LD_LIBRARY_PATH, the cache, the usual directories.
void ProbeLibraries(const Root& root, DriverFacts& facts) {
  static const std::string kNames[] = {"libcuda.so.1", "libnvidia-ml.so.1"};
  const auto environment = ProbeEnvironment(root);
  if (const auto path = environment.find("LD_LIBRARY_PATH"); path != environment.end())
    for (const std::string& directory : SplitPath(path->second))
      for (const std::string& name : kNames)
        AddCopy(root, name, directory + "/" + name, "LD_LIBRARY_PATH", facts);
  for (const auto& [soname, path] : ParseLinkerCache(root.Read("/etc/ld.so.cache")))
    for (const std::string& name : kNames)
      if (soname == name) AddCopy(root, name, path, "ld.so.cache", facts);
  for (const char* directory :
       {"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib",
        "/usr/local/nvidia/lib64", "/usr/lib/x86_64-linux-gnu/nvidia/current", "/usr/lib/wsl/lib",
        "/run/opengl-driver/lib", "/usr/lib/nvidia"})
    for (const std::string& name : kNames)
      AddCopy(root, name, std::string(directory) + "/" + name, "a driver directory", facts);
  for (const std::string& name : root.List("/usr/local"))
    if (name.starts_with("cuda"))
      AddCopy(root, "libcuda.so.1", "/usr/local/" + name + "/compat/libcuda.so.1", "cuda-compat",
              facts);
}

void ProbeFabricManager(const Root& root, DriverFacts& facts) {
  for (const std::string& name : root.List("/proc"))
    if (ToInteger(name) && root.ReadLine("/proc/" + name + "/comm").starts_with("nv-fabricmanag"))
      facts.fabric_manager_running = true;
  facts.fabric_manager_version.from = "nv-fabricmanager --version";
  if (!facts.nvswitch_nodes && !facts.fabric_manager_running) return;
  if (const auto text = root.Ask("nv-fabricmanager", {"nv-fabricmanager", "--version"})) {
    const std::string version = FirstVersion(*text);
    if (!version.empty()) facts.fabric_manager_version.value = version;
  }
}

}  // namespace

// The 64-bit libraries of /etc/ld.so.cache, in its order: (soname, path).
std::vector<std::pair<std::string, std::string>> ParseLinkerCache(std::string_view bytes) {
  constexpr std::string_view kMagic = "glibc-ld.so.cache1.1";
  std::vector<std::pair<std::string, std::string>> found;
  // An old-format cache may come first; the new one follows it, aligned.
  const std::size_t base = bytes.find(kMagic);
  constexpr std::size_t kHeader = 48, kEntry = 24;
  if (base == bytes.npos || bytes.size() - base < kHeader) return found;
  const std::string_view cache = bytes.substr(base);
  const auto word = [&](std::size_t at) {
    std::uint32_t value = 0;
    std::memcpy(&value, cache.data() + at, sizeof value);
    return value;
  };
  const auto text = [&](std::size_t at) {
    if (at >= cache.size()) return std::string();
    const std::string_view rest = cache.substr(at, 4096);
    return std::string(rest.substr(0, rest.find('\0')));
  };
  const std::size_t count = word(kMagic.size());
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t at = kHeader + i * kEntry;
    if (at + kEntry > cache.size()) break;
    constexpr std::uint32_t kAbi = 0xff00, kX64 = 0x0300, kAarch64 = 0x0a00;
    if (const std::uint32_t abi = word(at) & kAbi; abi != kX64 && abi != kAarch64) continue;
    found.emplace_back(text(word(at + 4)), text(word(at + 8)));
  }
  return found;
}

void ProbeDriver(const Root& root, DriverFacts& facts) {
  ProbeModule(root, facts);
  ProbeDkms(root, facts);
  ProbeNodes(root, facts);
  ProbeLibraries(root, facts);
  ProbeFabricManager(root, facts);
}

}  // namespace envkit::doctor
