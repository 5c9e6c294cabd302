// What a run would meet: memory, limits, network, disks; and the project itself.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <sstream>

#include "doctor/rule.h"
#include "doctor/versions.h"

namespace envkit::doctor {
namespace {

constexpr std::int64_t kMiB = 1 << 20, kGiB = 1 << 30;

Outcome R01(const Facts& facts) {
  const Number& size = facts.system.shm_size;
  if (!size) return Unknown(size.unknown.empty() ? facts.system.unknown : size.unknown);
  if (*size >= kGiB) return Pass();
  Outcome found = Found(Severity::kWarn, fmt::format("Shared memory is small: {}", GiB(*size)));
  found.Show("/dev/shm", GiB(*size), size.from);
  found.Why(
      "Data loaders and NCCL pass their data through it: \"Bus error\", \"failed to extend "
      "/dev/shm/nccl-…\", \"unhandled system error\".");
  if (facts.system.container)
    return found.Run("docker run --shm-size=16g …", "start the container anew")
        .Run("docker run --ipc=host …", "or");
  return found.Run("sudo mount -o remount,size=50% /dev/shm");
}

Outcome R02(const Facts& facts) {
  const SystemFacts& system = facts.system;
  if (!system.memlock_hard) return Unknown(system.memlock_hard.unknown);
  const auto text = [](std::int64_t limit) {
    return limit == -1 ? std::string("unlimited") : GiB(limit);
  };
  // Only RDMA pins memory by the gigabyte; NCCL over PCIe and NVLink does not need it.
  if (!facts.network.rdma.empty() && *system.memlock_hard != -1 && *system.memlock_hard < kGiB) {
    Outcome found = Found(Severity::kWarn, "Too little memory may be locked for the RDMA network");
    found.Show("locked memory", text(*system.memlock_hard), system.memlock_hard.from)
        .Show("RDMA card", facts.network.rdma.front().name, "/sys/class/infiniband")
        .Why("\"ibv_reg_mr failed: Cannot allocate memory\": RDMA pins its buffers.");
    if (system.container)
      return found.Run("docker run --ulimit memlock=-1 …", "start the container anew");
    return found.Run(
        "printf '* - memlock unlimited\\n' | sudo tee /etc/security/limits.d/90-memlock.conf",
        "then log in again");
  }
  constexpr std::int64_t kFiles = 8192;
  if (system.nofile_hard && *system.nofile_hard != -1 && *system.nofile_hard < kFiles) {
    Outcome found = Found(Severity::kWarn, "Few files may be open at a time");
    found.Show("open files", fmt::to_string(*system.nofile_hard), system.nofile_hard.from)
        .Why("\"Too many open files\": data loaders open one or more for each batch in flight.");
    if (system.container)
      return found.Run("docker run --ulimit nofile=1048576 …", "start the container anew");
    return found.Run(
        "printf '* - nofile 1048576\\n' | sudo tee /etc/security/limits.d/90-nofile.conf",
        "then log in again");
  }
  return Pass();
}

Outcome R03(const Facts& facts) {
  const std::string* port = FindVariable(facts, "MASTER_PORT");
  if (port == nullptr) return NotApplicable("MASTER_PORT is not set");
  if (!facts.network.unknown.empty()) return Unknown(facts.network.unknown);
  const bool taken = std::any_of(facts.network.listening.begin(), facts.network.listening.end(),
                                 [&](std::int64_t one) { return std::to_string(one) == *port; });
  if (!taken) return Pass();
  return Found(Severity::kWarn, fmt::format("Port {} is taken already", *port))
      .Show("MASTER_PORT", *port, "the environment")
      .Show("listening", *port, "/proc/net/tcp")
      .Why("\"Address already in use\": another process, often the last run, listens there.")
      .Run("ss -ltnp 'sport = :" + *port + "'", "who it is")
      .Run("unset MASTER_PORT", "or let envkit launch choose a free one");
}

// NCCL's form: "^" excludes, "=" means whole names, else prefixes.
bool InterfaceMatches(std::string pattern, const std::string& name) {
  const bool exclude = pattern.starts_with('^');
  if (exclude) pattern.erase(0, 1);
  const bool exact = pattern.starts_with('=');
  if (exact) pattern.erase(0, 1);
  bool any = false;
  std::istringstream parts(pattern);
  for (std::string part; std::getline(parts, part, ',');)
    any = any || (exact ? name == part : name.starts_with(part));
  return any != exclude;
}

Outcome R04(const Facts& facts) {
  for (const char* variable : {"NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME"}) {
    const std::string* pattern = FindVariable(facts, variable);
    if (pattern == nullptr || pattern->empty()) continue;
    if (facts.network.interfaces.empty()) return Unknown("the network interfaces are not known");
    std::vector<std::string> up;
    bool matches = false;
    for (const Interface& one : facts.network.interfaces) {
      if (!one.up) continue;
      up.push_back(one.name);
      matches = matches ||
                InterfaceMatches(
                    std::string_view(variable) == "NCCL_SOCKET_IFNAME" ? *pattern : "=" + *pattern,
                    one.name);
    }
    if (matches) return Pass();
    return Found(Severity::kFail, fmt::format("{} names no network interface that is up", variable))
        .Show(variable, *pattern, "the environment")
        .Show("interfaces up", fmt::format("{}", fmt::join(up, " ")), "/sys/class/net")
        .Why("\"Bootstrap : no socket interface found\": the name is another machine's.")
        .Run(fmt::format("unset {}", variable));
  }
  return NotApplicable("no NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME or TP_SOCKET_IFNAME is set");
}

Outcome R05(const Facts& facts) {
  if (!facts.project.found || facts.project.most_processes == 0)
    return NotApplicable("no job names a number of ranks");
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  if (const std::string why = WithoutNvml(facts); !why.empty()) return Unknown(why);
  const auto gpus = static_cast<std::int64_t>(facts.nvml.gpus.size());
  if (facts.project.most_processes <= gpus || gpus == 0) return Pass();
  return Found(Severity::kWarn, "A job wants more ranks than there are GPUs")
      .Show("processes", fmt::to_string(facts.project.most_processes), facts.project.file)
      .Show("GPUs", fmt::to_string(gpus), "NVML")
      .Why("\"Duplicate GPU detected\": NCCL wants a GPU for every rank.")
      .Say("in envkit.toml: processes = \"auto\", one rank per GPU");
}

Outcome R07(const Facts& facts) {
  const Number& kills = facts.system.oom_kills;
  const auto logged = std::count_if(facts.kernel_log.events.begin(), facts.kernel_log.events.end(),
                                    [](const LogEvent& event) { return event.kind == "oom"; });
  if (!kills && logged == 0) {
    if (!facts.kernel_log.unknown.empty())
      return Unknown(kills.unknown + "; " + facts.kernel_log.unknown);
    return Pass();
  }
  if (kills.value.value_or(0) == 0 && logged == 0) return Pass();
  Outcome found = Found(Severity::kWarn, "Processes were ended here because memory ran out");
  if (kills.value.value_or(0) > 0) found.Show("OOM kills", fmt::to_string(*kills), kills.from);
  if (logged > 0) {
    found.Show("kernel log", fmt::format("{} since boot", logged), facts.kernel_log.from);
  }
  if (facts.system.memory_limit)
    found.Show("memory limit", GiB(*facts.system.memory_limit), facts.system.memory_limit.from);
  else if (facts.system.memory_total)
    found.Show("memory", GiB(*facts.system.memory_total), facts.system.memory_total.from);
  return found.Why("A rank that ends with signal 9 or exit code 137 was most likely one of them.")
      .Say("fewer data loader workers, smaller batches, or a higher --memory");
}

Outcome R08(const Facts& facts) {
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  if (const std::string why = WithoutNvml(facts); !why.empty()) return Unknown(why);
  constexpr std::int64_t kShare = 10;
  for (const Gpu& gpu : facts.nvml.gpus) {
    if (!gpu.memory_free || !gpu.memory_total || *gpu.memory_total == 0) continue;
    if (*gpu.memory_free >= *gpu.memory_total / kShare) continue;
    return Found(Severity::kWarn, GpuName(gpu) + " has little free memory")
        .Show("free", fmt::format("{} of {}", GiB(*gpu.memory_free), GiB(*gpu.memory_total)),
              "NVML")
        .Why(
            "\"CUDA out of memory\" or CUBLAS_STATUS_NOT_INITIALIZED at the start. With no process "
            "shown, "
            "its holder is in another container or was killed badly.")
        .Run("nvidia-smi", "who uses it")
        .Run(fmt::format("sudo fuser -v /dev/nvidia{}", gpu.index),
             "also those that nvidia-smi does not show");
  }
  return Pass();
}

Outcome R10(const Facts& facts) {
  const Text& address = facts.network.hostname_address;
  if (!facts.network.unknown.empty() && !address) return Unknown(facts.network.unknown);
  if (!address.Known()) return Unknown(address.unknown);
  if (address) return Pass();
  return Found(Severity::kWarn, "This machine's own name does not resolve")
      .Show("host name", facts.system.hostname ? *facts.system.hostname : "",
            "/proc/sys/kernel/hostname")
      .Show("address", "none", address.from)
      .Why("Gloo and torch's rendezvous look it up: they warn, wait, or fail.")
      .Run("echo \"127.0.1.1 $(hostname)\" | sudo tee -a /etc/hosts",
           "for jobs on this machine alone")
      .Say("for several machines: a name that the others can reach, in DNS");
}

Outcome R11(const Facts& facts) {
  if (!facts.network.unknown.empty()) return Unknown(facts.network.unknown);
  if (!facts.network.firewall) return Pass();
  if (!facts.system.slurm && facts.network.rdma.empty())
    return NotApplicable("a firewall matters for jobs over several machines alone");
  return Found(Severity::kInfo, "A firewall is on: ranks on other machines may not get through")
      .Show("firewall", facts.network.firewall)
      .Why(
          "NCCL and Gloo choose ports freely; a firewall that drops them makes jobs hang at their "
          "start.")
      .Run(*facts.network.firewall == "ufw"
               ? "sudo ufw allow from SUBNET"
               : "sudo firewall-cmd --zone=trusted --add-source=SUBNET",
           "let the cluster's own subnet in");
}

Outcome R12(const Facts& facts) {
  if (!facts.storage.unknown.empty()) return Unknown(facts.storage.unknown);
  if (facts.storage.disks.empty()) return Unknown("no disk was looked at");
  for (const Disk& disk : facts.storage.disks) {
    if (!disk.free_bytes) continue;
    const bool store = disk.purpose == "envkit's store";
    const std::int64_t few = store ? 15 * kGiB : kGiB, none = store ? 3 * kGiB : 100 * kMiB;
    const bool inodes = disk.free_inodes && *disk.free_inodes < 10000;
    if (*disk.free_bytes >= few && !inodes) continue;
    Outcome found = Found(*disk.free_bytes < none || inodes ? Severity::kFail : Severity::kWarn,
                          fmt::format("Little disk space for {}", disk.purpose));
    found.Show("free", GiB(*disk.free_bytes), disk.path);
    if (inodes) found.Show("free inodes", fmt::to_string(*disk.free_inodes), disk.path);
    return found
        .Why(store ? "An image for GPUs takes about 10 GiB with its downloads."
                   : "Programs fail in odd places when this is full.")
        .Run("df -h " + disk.path)
        .Run(store ? "export ENVKIT_STORE=/a/larger/disk/envkit" : "",
             "or keep the store elsewhere");
  }
  return Pass();
}

Outcome R13(const Facts& facts) {
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  const auto gpus =
      static_cast<std::int64_t>(std::max(facts.nvml.gpus.size(), facts.pci.gpus.size()));
  if (gpus == 0 || !facts.system.cpus) return Unknown("GPUs or CPUs were not counted");
  if (*facts.system.cpus < 2 * gpus) {
    return Found(Severity::kWarn,
                 "Few CPU cores for the GPUs: data loading will hold training back")
        .Show("cores", fmt::to_string(*facts.system.cpus), facts.system.cpus.from)
        .Show("GPUs", fmt::to_string(gpus), "NVML, PCI")
        .Why("Each rank wants a core of its own and some for its data loader.")
        .Say(facts.system.container
                 ? "give the container more: docker run --cpus, or no --cpuset-cpus"
                 : "ask the scheduler for more cores, or use fewer GPUs");
  }
  const std::int64_t memory = facts.system.memory_limit
                                  ? *facts.system.memory_limit
                                  : facts.system.memory_total.value.value_or(0);
  if (memory > 0 && memory < gpus * 4 * kGiB) {
    return Found(Severity::kWarn, "Little memory for the GPUs")
        .Show("memory", GiB(memory),
              facts.system.memory_limit ? facts.system.memory_limit.from
                                        : facts.system.memory_total.from)
        .Show("GPUs", fmt::to_string(gpus), "NVML, PCI")
        .Why("A rank of PyTorch with CUDA takes 3 to 5 GiB before it has data.")
        .Say("a higher memory limit, or fewer GPUs");
  }
  return Pass();
}

Outcome P01(const Facts& facts) {
  if (!facts.project.unknown.empty()) return Unknown(facts.project.unknown);
  if (!facts.project.found) return NotApplicable("no envkit.toml here");
  if (facts.project.error.empty()) return Pass();
  Outcome found = Found(Severity::kFail, "envkit.toml has mistakes");
  found.Show("first", facts.project.error, facts.project.file);
  return found.Why("Nothing runs until they are mended.")
      .Run("envkit lock --check", "all of them, with their places");
}

Outcome P02(const Facts& facts) {
  if (!facts.project.unknown.empty()) return Unknown(facts.project.unknown);
  if (!facts.project.found || !facts.project.error.empty())
    return NotApplicable("no envkit.toml that could be locked");
  if (facts.project.lock == "fits") return Pass();
  if (facts.project.lock.empty()) return Unknown("the lock was not looked at");
  const std::string what = facts.project.lock == "missing" ? "envkit.lock is missing"
                           : facts.project.lock == "stale"
                               ? "envkit.lock does not fit envkit.toml any more"
                               : "envkit.lock is damaged";
  Outcome found = Found(Severity::kWarn, what);
  found.Show("envkit.lock",
             facts.project.lock_detail.empty() ? facts.project.lock : facts.project.lock_detail,
             facts.project.file);
  return found.Why("Images are built from the lock alone.").Run("envkit lock");
}

Outcome P03(const Facts& facts) {
  if (!facts.project.found || facts.project.cuda.empty())
    return NotApplicable("no project with a lock");
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  if (facts.project.cuda != "cpu") return Pass();
  return Found(Severity::kInfo, "The project is for CPUs alone, and there are GPUs here")
      .Show("cuda", "\"cpu\"", facts.project.file)
      .Why("[environment] cuda = \"cpu\" locks no build for GPUs.")
      .Say("to use them: cuda = \"auto\", then envkit lock");
}

}  // namespace

std::vector<Rule> RunRules() {
  return {
      {"R01",
       "shared memory is large enough",
       "Containers get 64 MB of /dev/shm unless told otherwise: \"Bus error\", \"No space left on "
       "device\", \"unhandled system error\".",
       {},
       R01},
      {"R02",
       "limits leave room",
       "Locked memory for RDMA, and open files. envkit's own engines raise what they may.",
       {},
       R02},
      {"R03",
       "the rendezvous port is free",
       "MASTER_PORT against what listens here: EADDRINUSE.",
       {},
       R03},
      {"R04",
       "the named network interface is up",
       "NCCL_SOCKET_IFNAME in NCCL's own form (prefixes, = for whole names, ^ to exclude).",
       {},
       R04},
      {"R05",
       "not more ranks than GPUs",
       "\"Duplicate GPU detected\" up to NCCL 2.29, \"Multiple Ranks are using the same GPU\" from "
       "2.30.",
       {"H11"},
       R05},
      {"R07",
       "nothing was ended for lack of memory",
       "oom_kill in this cgroup's counters and the OOM killer in the kernel log; exit code 137.",
       {},
       R07},
      {"R08",
       "GPU memory is free",
       "CUBLAS_STATUS_NOT_INITIALIZED and \"CUDA out of memory\" at the start of a job.",
       {"H21"},
       R08},
      {"R10",
       "this machine's name resolves",
       "Gloo and the rendezvous look the host name up.",
       {},
       R10},
      {"R11",
       "no firewall between the ranks",
       "Jobs over several machines use ports of their own choosing.",
       {},
       R11},
      {"R12", "disks have room", "envkit's store, /tmp and docker's images.", {}, R12},
      {"R13",
       "enough cores and memory for the GPUs",
       "What the affinity mask and the cgroup leave, against the number of GPUs.",
       {},
       R13},
      {"P01", "envkit.toml is right", "Reads the project's file as every command does.", {}, P01},
      {"P02",
       "envkit.lock fits",
       "Missing, damaged, or made from another envkit.toml.",
       {"P01"},
       P02},
      {"P03",
       "the project uses the GPUs that are here",
       "A project for CPUs alone on a GPU machine.",
       {},
       P03},
  };
}

}  // namespace envkit::doctor
