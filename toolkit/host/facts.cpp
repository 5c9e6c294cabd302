// Plain C++ and POSIX: this file is compiled into envkit-launch as well, where no library of ours
// is.
#include "host/facts.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <sstream>

namespace envkit {
namespace {

namespace fs = std::filesystem;

// Empty where it cannot be read; never waits.
std::string Read(const fs::path& file) {
  constexpr std::size_t kMost = std::size_t{1} << 20;
  std::string text;
  const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return text;
  char buffer[4096];
  for (ssize_t got; text.size() < kMost && (got = read(fd, buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<std::size_t>(got));
  close(fd);
  return text;
}

std::string ReadLine(const fs::path& file) {
  std::string line = Read(file);
  line.resize(std::min(line.find_first_of("\r\n"), line.size()));
  while (line.ends_with(' ')) line.pop_back();
  return line;
}

std::vector<std::string> Names(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error))
    names.push_back(it->path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

bool Exists(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

// A whole, small, non-negative number.
std::optional<std::uint64_t> Number(std::string_view text) {
  if (text.empty() || text.size() > 19) return std::nullopt;
  std::uint64_t value = 0;
  for (char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + static_cast<std::uint64_t>(c - '0');
  }
  return value;
}

// "0-3,8,10-11", the kernel's form.
std::set<int> CpuList(const std::string& text) {
  constexpr std::uint64_t kMost = 65536;
  std::set<int> cpus;
  std::istringstream ranges(text);
  for (std::string range; std::getline(ranges, range, ',');) {
    const std::size_t dash = range.find('-');
    const auto first = Number(range.substr(0, dash));
    const auto last = dash == std::string::npos ? first : Number(range.substr(dash + 1));
    if (!first || !last || *last >= kMost) continue;
    for (std::uint64_t cpu = *first; cpu <= *last; ++cpu) cpus.insert(static_cast<int>(cpu));
  }
  return cpus;
}

std::set<int> AffinityMask() {
  constexpr int kMost = 8192;
  std::set<int> cpus;
  cpu_set_t* mask = CPU_ALLOC(kMost);
  const std::size_t size = CPU_ALLOC_SIZE(kMost);
  if (mask == nullptr) return cpus;
  if (sched_getaffinity(0, size, mask) == 0)
    for (int cpu = 0; cpu < kMost; ++cpu)
      if (CPU_ISSET_S(cpu, size, mask)) cpus.insert(cpu);
  CPU_FREE(mask);
  return cpus;
}

void ProbePci(const fs::path& root, HostFacts& facts) {
  const fs::path devices = root / "sys/bus/pci/devices";
  for (const std::string& address : Names(devices)) {
    if (ReadLine(devices / address / "vendor") != "0x10de") continue;
    if (!ReadLine(devices / address / "class").starts_with("0x03")) continue;
    const auto node = Number(ReadLine(devices / address / "numa_node"));  // "-1": not known
    facts.pci_gpus.push_back({address, node ? static_cast<int>(*node) : -1});
  }
}

// "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (…)"
std::optional<std::string> ModuleVersion(const std::string& text) {
  const std::size_t start = text.find("Kernel Module");
  if (start == std::string::npos) return std::nullopt;
  std::istringstream words(text.substr(start, text.find('\n', start) - start));
  for (std::string word; words >> word;) {
    if (word.find('.') != std::string::npos &&
        word.find_first_not_of("0123456789.") == std::string::npos)
      return word;
  }
  return std::nullopt;
}

void ProbeNodes(const fs::path& root, bool live, HostFacts& facts) {
  const auto note = [&](const std::string& name) {
    const fs::path node = root / "dev" / name;
    if (live && access(node.c_str(), R_OK | W_OK) != 0)
      facts.closed_nodes.push_back("/dev/" + name);
  };
  for (const std::string& name : Names(root / "dev")) {
    if (!name.starts_with("nvidia")) continue;
    const auto index = Number(std::string_view(name).substr(6));
    if (index && *index < 1024) {
      facts.device_nodes.push_back(static_cast<int>(*index));
    } else if (name == "nvidiactl") {
      facts.control_node = true;
    } else if (name == "nvidia-uvm") {
      facts.uvm_node = true;
    } else {
      continue;
    }
    note(name);
  }
  std::sort(facts.device_nodes.begin(), facts.device_nodes.end());
}

struct CgroupLimits {
  std::optional<double> cpus;
  std::optional<std::uint64_t> memory;
};

void Lessen(std::optional<double>& limit, double value) {
  if (!limit || value < *limit) limit = value;
}

// The limits of one group, of cgroup 2 or of the controllers of cgroup 1 that are mounted there.
void ReadGroup(const fs::path& group, CgroupLimits& limits) {
  std::istringstream v2(ReadLine(group / "cpu.max"));
  std::string quota, period;
  if (!(v2 >> quota >> period)) {
    quota = ReadLine(group / "cpu.cfs_quota_us");  // "-1": no limit
    period = ReadLine(group / "cpu.cfs_period_us");
  }
  const auto quota_us = Number(quota), period_us = Number(period);
  if (quota_us && period_us && *quota_us > 0 && *period_us > 0)
    Lessen(limits.cpus, static_cast<double>(*quota_us) / static_cast<double>(*period_us));
  for (const char* name : {"memory.max", "memory.limit_in_bytes"}) {
    const auto bytes = Number(ReadLine(group / name));
    constexpr std::uint64_t kNoLimit = std::uint64_t{1} << 60;  // cgroup 1 says 2^63 - 4096
    if (bytes && *bytes < kNoLimit && (!limits.memory || *bytes < *limits.memory))
      limits.memory = bytes;
  }
}

// A limit holds for a group and all below it, so every group up to the hierarchy's root counts.
CgroupLimits ProbeCgroups(const fs::path& root) {
  CgroupLimits limits;
  const fs::path base = root / "sys/fs/cgroup";
  std::istringstream lines(Read(root / "proc/self/cgroup"));
  for (std::string line; std::getline(lines, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool wanted = controllers.empty() ||
                        ("," + controllers + ",").find(",cpu,") != std::string::npos ||
                        controllers == "memory";
    if (!wanted) continue;
    const fs::path hierarchy = controllers.empty() ? base : base / controllers;
    // A container's path may be one of the host's that is not there: its own root counts then.
    fs::path group = fs::path(line.substr(second + 1)).relative_path().lexically_normal();
    if (group.string().starts_with("..")) group.clear();
    while (true) {
      ReadGroup(hierarchy / group, limits);
      if (group.empty() || group == ".") break;
      group = group.parent_path();
    }
  }
  return limits;
}

std::optional<std::uint64_t> MachineMemory(const fs::path& root) {
  std::istringstream lines(Read(root / "proc/meminfo"));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name, number;
    if (words >> name >> number && name == "MemTotal:")
      if (const auto kilobytes = Number(number)) return *kilobytes * 1024;
  }
  return std::nullopt;
}

std::optional<std::uint64_t> ShmSize(const fs::path& root, bool live) {
  if (live) {
    struct statvfs info {};
    if (statvfs("/dev/shm", &info) != 0) return std::nullopt;
    return static_cast<std::uint64_t>(info.f_blocks) * info.f_frsize;
  }
  std::istringstream lines(Read(root / "proc/mounts"));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string device, place, type, options;
    if (!(words >> device >> place >> type >> options) || place != "/dev/shm") continue;
    std::istringstream list(options);
    for (std::string option; std::getline(list, option, ',');)
      if (option.starts_with("size=") && option.ends_with('k'))
        if (const auto size = Number(std::string_view(option).substr(5, option.size() - 6)))
          return *size * 1024;
  }
  return std::nullopt;
}

void ProbeCpus(const fs::path& root, const std::set<int>& usable, const CgroupLimits& limits,
               HostFacts& facts) {
  facts.cpus = std::max(1, static_cast<int>(usable.size()));
  if (limits.cpus && *limits.cpus < facts.cpus) {
    const int whole = static_cast<int>(*limits.cpus);
    facts.cpus = std::max(1, whole < *limits.cpus ? whole + 1 : whole);
  }
  // Only nodes with CPUs that we may use: Grace Hopper's GPU memory is a node too.
  int nodes = 0;
  const fs::path directory = root / "sys/devices/system/node";
  for (const std::string& name : Names(directory)) {
    if (!name.starts_with("node") || !Number(std::string_view(name).substr(4))) continue;
    const std::set<int> cpus = CpuList(ReadLine(directory / name / "cpulist"));
    nodes += std::any_of(cpus.begin(), cpus.end(), [&](int cpu) { return usable.contains(cpu); });
  }
  facts.numa_nodes = std::max(1, nodes);
}

// The bounding set, which a daemon of this machine shares with us.
bool MayRaiseLimits(const fs::path& root) {
  constexpr unsigned kSysResource = 24;
  std::istringstream lines(Read(root / "proc/self/status"));
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("CapBnd:")) continue;
    return std::strtoull(line.c_str() + 7, nullptr, 16) >> kSysResource & 1;
  }
  return true;
}

std::string NodeNames(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

HostFacts ProbeHost(const fs::path& root) {
  const bool live = root == "/";
  HostFacts facts;
  ProbePci(root, facts);
  facts.kernel_module = ModuleVersion(Read(root / "proc/driver/nvidia/version"));
  ProbeNodes(root, live, facts);
  facts.nouveau = Exists(root / "sys/module/nouveau");
  facts.wsl = Exists(root / "dev/dxg");
  facts.wsl_driver = Exists(root / "usr/lib/wsl/lib/libcuda.so.1");
  const CgroupLimits limits = ProbeCgroups(root);
  ProbeCpus(root, live ? AffinityMask() : CpuList(ReadLine(root / "sys/devices/system/cpu/online")),
            limits, facts);
  facts.memory_bytes = MachineMemory(root);
  if (limits.memory && (!facts.memory_bytes || *limits.memory < *facts.memory_bytes))
    facts.memory_bytes = limits.memory;
  facts.shm_bytes = ShmSize(root, live);
  facts.may_raise_limits = MayRaiseLimits(root);
  facts.hostname = ReadLine(root / "proc/sys/kernel/hostname");
  facts.kernel = ReadLine(root / "proc/sys/kernel/osrelease");
  return facts;
}

GpuVerdict JudgeGpus(const HostFacts& facts) {
  const auto unusable = [](std::string why, std::string next) {
    return GpuVerdict{GpuState::kUnusable, std::move(why), std::move(next)};
  };
  if (facts.pci_gpus.empty() && facts.device_nodes.empty()) {
    // On WSL the device is the same for every vendor's GPU; the driver's library is what tells.
    if (facts.wsl && facts.wsl_driver) return {GpuState::kUsable, "", ""};
    return {GpuState::kNone, "", ""};
  }
  // Without a PCI bus to look at (some sandboxes), nodes alone speak for a GPU.
  if (!facts.kernel_module && !facts.pci_gpus.empty()) {
    const std::string what =
        facts.pci_gpus.size() == 1
            ? "an NVIDIA GPU is on PCI (" + facts.pci_gpus[0].address + ")"
            : std::to_string(facts.pci_gpus.size()) + " NVIDIA GPUs are on PCI";
    if (facts.nouveau)
      return unusable(
          what + ", but the nouveau module holds it and NVIDIA's kernel module is not loaded",
          "install the NVIDIA driver, blacklist nouveau, rebuild the initramfs, reboot");
    return unusable(what + ", but NVIDIA's kernel module is not loaded",
                    "sudo modprobe nvidia\n"
                    "if that fails: install the driver and the headers of kernel " +
                        facts.kernel +
                        ", then sudo dkms autoinstall (dkms status);\n"
                        "with Secure Boot the module must be signed (mokutil --sb-state)");
  }
  std::vector<std::string> missing;
  if (!facts.control_node) missing.push_back("/dev/nvidiactl");
  if (facts.device_nodes.empty()) missing.push_back("/dev/nvidia0");
  if (!facts.uvm_node) missing.push_back("/dev/nvidia-uvm");
  if (!missing.empty())
    return unusable("the NVIDIA driver is loaded, but " + NodeNames(missing) +
                        (missing.size() == 1 ? " is" : " are") + " missing",
                    "sudo nvidia-modprobe -u -c=0\n"
                    "in a container: start it with its GPUs (docker run --gpus all)");
  if (!facts.closed_nodes.empty())
    return unusable("this user may not open " + NodeNames(facts.closed_nodes),
                    "ls -l " + facts.closed_nodes[0] +
                        " names the group to join: sudo usermod -aG GROUP $USER");
  return {GpuState::kUsable, "", ""};
}

}  // namespace envkit
