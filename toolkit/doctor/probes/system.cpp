#include <fmt/format.h>
#include <gnu/libc-version.h>
#include <grp.h>
#include <pwd.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "base/process.h"
#include "doctor/probes/probes.h"
#include "host/facts.h"

namespace envkit::doctor {
namespace {

std::map<std::string, std::string> KeyValues(const std::string& text) {
  std::map<std::string, std::string> values;
  for (const std::string& line : Lines(text)) {
    const std::size_t equals = line.find('=');
    if (equals == std::string::npos) continue;
    std::string value = Trimmed(line.substr(equals + 1));
    if (value.size() > 1 && (value.front() == '"' || value.front() == '\'')) {
      value = value.substr(1, value.size() - 2);
    }
    values[Trimmed(line.substr(0, equals))] = value;
  }
  return values;
}

void ProbeDistribution(const Root& root, SystemFacts& facts) {
  const auto release = KeyValues(root.Read("/etc/os-release"));
  const auto field = [&](const char* name) {
    const auto found = release.find(name);
    return found == release.end() ? std::string() : found->second;
  };
  facts.os_name.from = "/etc/os-release";
  if (!release.empty()) facts.os_name.value = field("PRETTY_NAME");
  facts.os_id = field("ID");
  facts.os_like = field("ID_LIKE");
  facts.kernel = root.Line("/proc/sys/kernel/osrelease");
  facts.hostname = root.Line("/proc/sys/kernel/hostname");
  if (root.live()) {
    facts.glibc = {std::string(gnu_get_libc_version()), "the running C library", ""};
    utsname names{};
    if (uname(&names) == 0) facts.architecture = {std::string(names.machine), "uname", ""};
    return;
  }
  facts.glibc = root.Line("/.envkit/glibc");
  if (!facts.glibc) facts.glibc.unknown = "not to be had from a captured tree";
  facts.architecture = root.Line("/.envkit/architecture");
}

void ProbeSurroundings(const Root& root, SystemFacts& facts) {
  const std::string vendor = root.ReadLine("/sys/class/dmi/id/sys_vendor");
  const std::string product = root.ReadLine("/sys/class/dmi/id/product_name");
  facts.machine.from = "/sys/class/dmi/id";
  if (!vendor.empty() || !product.empty()) facts.machine.value = Trimmed(vendor + " " + product);
  facts.virtualisation.from = "/proc/cpuinfo, /sys/class/dmi/id";
  const std::string cpu = root.Read("/proc/cpuinfo");
  if (cpu.empty()) facts.virtualisation.unknown = "/proc/cpuinfo cannot be read";
  const std::size_t flags = cpu.find("\nflags");
  const std::string first_flags =
      flags == std::string::npos ? "" : cpu.substr(flags, cpu.find('\n', flags + 1) - flags);
  if (first_flags.find(" hypervisor") != std::string::npos) facts.virtualisation.value = "yes";
  for (const auto& [word, name] : {std::pair{"QEMU", "qemu"},
                                   {"KVM", "kvm"},
                                   {"VMware", "vmware"},
                                   {"VirtualBox", "virtualbox"},
                                   {"Microsoft", "hyper-v"},
                                   {"Xen", "xen"}}) {
    if (facts.machine && facts.machine->find(word) != std::string::npos && facts.virtualisation)
      facts.virtualisation.value = name;
  }
  facts.wsl = root.Exists("/dev/dxg");
  facts.wsl_driver = root.Exists("/usr/lib/wsl/lib/libcuda.so.1");

  facts.kubernetes = root.Exists("/var/run/secrets/kubernetes.io");
  facts.container.from = "/.dockerenv, /run/.containerenv, /proc/1/environ";
  const std::string first = root.Read("/proc/1/environ");
  const std::size_t at = first.find("container=");
  // Machines that were made from an image carry /.dockerenv too: where the kernel's own threads are
  // to be seen and / lies on a disk, this is no container.
  bool on_disk = false;
  for (const std::string& line : Lines(root.Read("/proc/self/mounts")))
    on_disk = on_disk || (line.starts_with("/dev/") && line.find(" / ") != std::string::npos);
  const bool machine = on_disk && root.ReadLine("/proc/2/comm") == "kthreadd";
  if (root.Exists("/.dockerenv") && !machine) {
    facts.container.value = "docker";
  } else if (root.Exists("/run/.containerenv")) {
    facts.container.value = "podman";
  } else if (at != std::string::npos) {
    facts.container.value = first.substr(at + 10, first.find('\0', at) - at - 10);
  } else if (facts.kubernetes) {
    facts.container.value = "kubernetes";
  }
  for (const std::string& name : root.List("/sys/firmware/efi/efivars")) {
    if (!name.starts_with("SecureBoot-")) continue;
    const std::string bytes = root.Read("/sys/firmware/efi/efivars/" + name);
    facts.secure_boot.from = "/sys/firmware/efi/efivars/" + name;
    if (bytes.size() >= 5) facts.secure_boot.value = bytes[4] == 1;
  }
  const Number enforcing = root.Integer("/sys/fs/selinux/enforce");
  facts.selinux.from = enforcing.from;
  facts.selinux.unknown = enforcing.unknown;
  if (enforcing) facts.selinux.value = *enforcing == 1 ? "enforcing" : "permissive";
  const Text apparmor = root.Line("/sys/module/apparmor/parameters/enabled");
  facts.apparmor.from = apparmor.from;
  facts.apparmor.unknown = apparmor.unknown;
  if (apparmor) facts.apparmor.value = *apparmor == "Y";
}

void ProbeUser(const Root& root, SystemFacts& facts) {
  facts.max_user_namespaces = root.Integer("/proc/sys/user/max_user_namespaces");
  facts.unprivileged_userns = root.Integer("/proc/sys/kernel/unprivileged_userns_clone");
  facts.apparmor_userns = root.Integer("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
  facts.newuidmap = root.Exists("/usr/bin/newuidmap");
  if (root.live()) {
    facts.user_id = {static_cast<std::int64_t>(geteuid()), "geteuid", ""};
    if (const passwd* entry = getpwuid(geteuid())) {
      facts.user = entry->pw_name;
      facts.home = entry->pw_dir;
    }
    gid_t groups[256];
    const int count = getgroups(256, groups);
    for (int i = 0; i < count; ++i)
      if (const group* entry = getgrgid(groups[i])) facts.groups.emplace_back(entry->gr_name);
  } else {
    facts.user_id = root.Integer("/.envkit/user_id");
    facts.user = root.ReadLine("/.envkit/user");
    for (const std::string& name : Lines(root.Read("/.envkit/groups")))
      facts.groups.push_back(name);
  }
  const Text subuid = root.Line("/etc/subuid");
  facts.subuid.from = "/etc/subuid";
  facts.subuid.unknown = subuid.unknown;
  if (!subuid.Known()) return;
  facts.subuid.value = false;
  for (const std::string& line : Lines(root.Read("/etc/subuid"))) {
    const std::string who = line.substr(0, line.find(':'));
    if ((!facts.user.empty() && who == facts.user) ||
        (facts.user_id && who == std::to_string(*facts.user_id)))
      facts.subuid.value = true;
  }
}

std::string CgroupVersion(const Root& root) {
  if (root.Exists("/sys/fs/cgroup/cgroup.controllers")) return "v2";
  for (const std::string& line : Lines(root.Read("/proc/self/cgroup")))
    if (line.starts_with("0::")) return "hybrid";
  return root.Exists("/sys/fs/cgroup") && !root.List("/sys/fs/cgroup").empty() ? "v1" : "";
}

// How often the OOM killer struck in our own group.
Number OomKills(const Root& root) {
  Number kills;
  for (const std::string& line : Lines(root.Read("/proc/self/cgroup"))) {
    const std::size_t colon = line.find(':'), second = line.find(':', colon + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(colon + 1, second - colon - 1);
    std::string group = line.substr(second + 1);
    if (group == "/") group.clear();
    const std::string file = controllers.empty() ? "/sys/fs/cgroup" + group + "/memory.events"
                             : controllers == "memory"
                                 ? "/sys/fs/cgroup/memory" + group + "/memory.oom_control"
                                 : "";
    if (file.empty()) continue;
    for (const std::string& entry : Lines(root.Read(file))) {
      if (!entry.starts_with("oom_kill ")) continue;
      kills.from = file;
      kills.value = ToInteger(Trimmed(entry.substr(9)));
    }
  }
  if (!kills) kills.unknown = "no memory cgroup of ours was found";
  return kills;
}

void ProbeMemory(const Root& root, SystemFacts& facts) {
  facts.systemd.from = "/run/systemd/system";
  if (root.Exists("/run/systemd/system")) {
    facts.systemd.value = true;
  } else if (const std::string first = root.Read("/proc/1/comm"); !first.empty()) {
    facts.systemd.value = first.starts_with("systemd");
  } else {
    facts.systemd.unknown = "neither /run/systemd nor /proc/1 is to be seen";
  }
  facts.cgroups = CgroupVersion(root);
  facts.memory_total.from = facts.memory_available.from = "/proc/meminfo";
  facts.memory_total.unknown = facts.memory_available.unknown = "/proc/meminfo does not say";
  for (const std::string& line : Lines(root.Read("/proc/meminfo"))) {
    std::istringstream words(line);
    std::string name;
    std::int64_t kilobytes = 0;
    if (!(words >> name >> kilobytes) || kilobytes < 0 || kilobytes > std::int64_t{1} << 50)
      continue;
    Number* fact = name == "MemTotal:"       ? &facts.memory_total
                   : name == "MemAvailable:" ? &facts.memory_available
                                             : nullptr;
    if (fact != nullptr) *fact = {kilobytes * 1024, "/proc/meminfo", ""};
  }
  const HostFacts host = ProbeHost(root.prefix());
  facts.memory_limit.from = "/sys/fs/cgroup";
  if (host.memory_bytes && facts.memory_total &&
      static_cast<std::int64_t>(*host.memory_bytes) < *facts.memory_total)
    facts.memory_limit.value = static_cast<std::int64_t>(*host.memory_bytes);
  facts.oom_kills = OomKills(root);
  facts.cpus = {host.cpus, "the affinity mask and the cgroup's quota", ""};
  facts.numa_nodes = {host.numa_nodes, "/sys/devices/system/node", ""};
  facts.may_raise_limits = host.may_raise_limits;
  facts.shm_size.from = "/dev/shm";
  if (host.shm_bytes) {
    facts.shm_size.value = static_cast<std::int64_t>(*host.shm_bytes);
  } else {
    facts.shm_size.unknown = root.live() ? "/dev/shm is not there" : "/proc/mounts does not say";
  }
}

// "Max locked memory         8388608              8388608              bytes"
void ProbeLimits(const Root& root, SystemFacts& facts) {
  const struct {
    std::string name;
    Number *soft, *hard;
  } wanted[] = {{"Max locked memory", &facts.memlock_soft, &facts.memlock_hard},
                {"Max open files", &facts.nofile_soft, &facts.nofile_hard},
                {"Max stack size", &facts.stack_soft, nullptr}};
  const std::string text = root.Read("/proc/self/limits");
  for (const auto& limit : wanted) {
    for (Number* fact : {limit.soft, limit.hard}) {
      if (fact == nullptr) continue;
      fact->from = "/proc/self/limits";
      fact->unknown = "/proc/self/limits cannot be read";
    }
    for (const std::string& line : Lines(text)) {
      if (!line.starts_with(limit.name)) continue;
      std::istringstream words(line.substr(limit.name.size()));
      for (Number* fact : {limit.soft, limit.hard}) {
        std::string word;
        words >> word;
        const auto value = word == "unlimited" ? -1 : ToInteger(word);
        if (fact != nullptr && value) *fact = {*value, "/proc/self/limits", ""};
      }
    }
  }
}

}  // namespace

std::map<std::string, std::string> ProbeEnvironment(const Root& root) {
  static const char* const kNames[] = {"CUDA_VISIBLE_DEVICES",
                                       "LD_LIBRARY_PATH",
                                       "LD_PRELOAD",
                                       "MASTER_ADDR",
                                       "MASTER_PORT",
                                       "DOCKER_HOST",
                                       "CUDA_HOME",
                                       "VIRTUAL_ENV",
                                       "CONDA_PREFIX",
                                       "OMP_NUM_THREADS",
                                       "GLOO_SOCKET_IFNAME",
                                       "TP_SOCKET_IFNAME",
                                       "PYTORCH_CUDA_ALLOC_CONF"};
  std::map<std::string, std::string> found;
  const std::string own = root.Read(root.live() ? "/proc/self/environ" : "/.envkit/environment");
  const char separator = root.live() ? '\0' : '\n';
  for (std::size_t at = 0; at < own.size();) {
    const std::size_t end = std::min(own.find(separator, at), own.size());
    const std::string entry = own.substr(at, end - at);
    at = end + 1;
    const std::size_t equals = entry.find('=');
    if (equals == std::string::npos) continue;
    const std::string name = entry.substr(0, equals);
    if (name.starts_with("NCCL_") || name.starts_with("NVIDIA_") ||
        name.starts_with("SLURM_JOB_ID") ||
        std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames))
      found[name] = entry.substr(equals + 1);
  }
  return found;
}

void ProbeSystem(const Root& root, SystemFacts& facts) {
  ProbeDistribution(root, facts);
  ProbeSurroundings(root, facts);
  ProbeUser(root, facts);
  ProbeMemory(root, facts);
  ProbeLimits(root, facts);
  facts.environment = ProbeEnvironment(root);
  facts.slurm.from = "SLURM_JOB_ID, /etc/slurm";
  if (const auto job = facts.environment.find("SLURM_JOB_ID"); job != facts.environment.end()) {
    facts.slurm.value = "job " + job->second;
  } else if (root.Exists("/etc/slurm/slurm.conf")) {
    facts.slurm.value = "a client";
  }
}

void ProbeStorage(const Root& root, StorageFacts& facts) {
  std::vector<std::pair<std::string, std::string>> places;
  const auto variable = [](const char* name) {
    const char* value = getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  if (root.live()) {
    std::string store = variable("ENVKIT_STORE");
    if (store.empty() && !variable("XDG_DATA_HOME").empty())
      store = variable("XDG_DATA_HOME") + "/envkit";
    if (store.empty() && !variable("HOME").empty())
      store = variable("HOME") + "/.local/share/envkit";
    if (!store.empty()) places.emplace_back(store, "envkit's store");
    places.emplace_back("/tmp", "temporary files");
    if (root.Exists("/var/lib/docker")) places.emplace_back("/var/lib/docker", "docker's images");
  }
  for (const auto& [path, purpose] : places) {
    Disk disk{path, purpose, {}, {}};
    disk.free_bytes.from = disk.free_inodes.from = "statvfs";
    // The store is made by the first build: until then the nearest directory over it counts.
    std::filesystem::path place(path);
    while (!root.Exists(place.string()) && place.has_relative_path()) place = place.parent_path();
    struct statvfs info {};
    if (statvfs(place.c_str(), &info) != 0) {
      disk.free_bytes.unknown = disk.free_inodes.unknown = "statvfs does not answer for it";
    } else {
      disk.free_bytes.value = static_cast<std::int64_t>(info.f_bavail * info.f_frsize);
      if (info.f_files > 0) disk.free_inodes.value = static_cast<std::int64_t>(info.f_favail);
    }
    facts.disks.push_back(std::move(disk));
  }
  // Captured trees: "PURPOSE<TAB>PATH<TAB>BYTES" a line.
  for (const std::string& line : Lines(root.live() ? "" : root.Read("/.envkit/disks"))) {
    std::istringstream fields(line);
    Disk disk;
    std::string bytes;
    std::getline(fields, disk.purpose, '\t');
    std::getline(fields, disk.path, '\t');
    std::getline(fields, bytes);
    disk.free_bytes = {ToInteger(bytes), "statvfs", ""};
    facts.disks.push_back(std::move(disk));
  }
}

}  // namespace envkit::doctor
