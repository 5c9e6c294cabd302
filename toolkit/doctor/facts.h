// Everything that the doctor knows of a machine, as plain data. Probes fill it, rules read it, and
// `envkit doctor --save` writes it. A fact that could not be read says why and is never guessed.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace envkit::doctor {

inline constexpr int kFactsSchema = 1;

// A value and where it was read. Without a value: known to be absent, or, where `unknown` says why,
// not known.
template <class T>
struct Fact {
  std::optional<T> value;
  std::string from;
  std::string unknown;

  explicit operator bool() const { return value.has_value(); }
  const T& operator*() const { return *value; }
  const T* operator->() const { return &*value; }
  bool Known() const { return unknown.empty(); }
};
using Text = Fact<std::string>;
using Number = Fact<std::int64_t>;
using Flag = Fact<bool>;

// What one probe found. `unknown`: why it ended early ("no answer within 2 s"); what it had found
// until then is kept.
struct Section {
  std::string unknown;
};

struct SystemFacts : Section {
  Text kernel, architecture, hostname, glibc;
  Text os_name;                // "Debian GNU/Linux 12 (bookworm)"
  std::string os_id, os_like;  // "debian", "" · "ubuntu", "debian" · "rocky", "rhel centos fedora"
  Text machine;                // DMI: "Amazon EC2 p5.48xlarge"
  Text virtualisation;         // "kvm"; absent on bare metal
  Text container;              // "docker", "podman", "kubernetes"; absent outside
  bool wsl = false, wsl_driver = false;
  Flag secure_boot;
  Text selinux;  // enforcing | permissive
  Flag apparmor;
  Text slurm;  // the job's id, or the version of an installed client
  bool kubernetes = false;
  Number user_id;
  std::string user, home;
  std::vector<std::string> groups;
  Number max_user_namespaces, unprivileged_userns, apparmor_userns;  // the sysctls
  Flag subuid;                                                       // this user has a range
  bool newuidmap = false;
  Flag systemd;         // it is what starts services here
  std::string cgroups;  // v1 | hybrid | v2
  Number memory_total, memory_available, memory_limit, oom_kills;
  Number cpus, numa_nodes;
  Number memlock_soft, memlock_hard, nofile_soft, nofile_hard, stack_soft;  // -1: unlimited
  bool may_raise_limits = true;
  Number shm_size;
  std::map<std::string, std::string> environment;  // only the variables that matter here
};

struct Disk {
  std::string path, purpose;
  Number free_bytes, free_inodes;
};
struct StorageFacts : Section {
  std::vector<Disk> disks;
};

struct PciDevice {
  std::string address;  // "0000:17:00.0"
  std::string id;       // "0x2330"
  std::string driver;   // "nvidia", "vfio-pci", "nouveau"; "" for none
  int numa_node = -1;
  int link_width = 0, max_link_width = 0;  // 0: not known
};
struct PciFacts : Section {
  bool bus = true;  // is there a PCI bus to look at?
  std::vector<PciDevice> gpus;
  int nvswitches = 0;
  Fact<std::vector<std::string>> acs_bridges;  // bridges with source validation switched on
  Number iommu_groups;
  Text iommu_type;  // "DMA", "DMA-FQ", "identity"
};

struct DeviceNode {
  std::string path;
  bool usable = true;  // this user may read and write it
  std::string group;   // that owns it
};
struct LibraryCopy {
  std::string name;      // libcuda.so.1
  std::string path;      // of the real file
  std::string version;   // "580.95.05"; "" where its name has none
  std::string found_by;  // "LD_LIBRARY_PATH", "ld.so.cache", "a driver directory", "cuda-compat"
  bool first = false;    // the one that a program gets
};
struct DriverFacts : Section {
  Text module_version;  // of the loaded module; absent: not loaded
  Flag open_module;
  Text disk_module_version;  // of the module on disk for this kernel
  bool nouveau = false, nouveau_blacklisted = false;
  bool uvm = false, peermem = false;
  bool headers = false;           // of this kernel
  std::vector<std::string> dkms;  // "nvidia/580.95.05: installed for 6.1.0-25-amd64"
  std::vector<DeviceNode> nodes;
  std::vector<LibraryCopy> libraries;
  bool fabric_manager_running = false;
  Text fabric_manager_version;
  bool nvswitch_nodes = false;
  bool char_links = false;  // /dev/char/195:*
};

struct GpuProcess {
  std::int64_t pid = 0;
  std::string name;  // "" for one of another container or user
  std::int64_t memory = 0;
};
struct Gpu {
  int index = 0;
  std::string error;  // what NVML answered instead: "GPU is lost (15)"
  std::string uuid, name, pci, compute_capability;
  std::optional<std::int64_t> memory_total, memory_free;
  std::optional<std::int64_t> ecc_uncorrected;
  std::optional<std::int64_t> rows_correctable, rows_uncorrectable;
  std::optional<bool> rows_pending, rows_failed;
  std::optional<std::int64_t> recovery_action;  // 0: none
  std::optional<std::int64_t> clock_reasons;
  std::optional<std::int64_t> link_width, max_link_width, link_generation, max_link_generation;
  std::optional<bool> mig, persistence;
  std::vector<std::string> mig_devices;
  std::optional<std::int64_t> compute_mode;  // 0 default, 2 prohibited, 3 exclusive process
  std::optional<std::int64_t> power_limit, default_power_limit, temperature;  // mW, °C
  std::vector<GpuProcess> processes;
  std::vector<int> nvlinks;                   // 1 active, 0 inactive, one a link
  std::vector<int> topology;                  // nvmlGpuTopologyLevel to each GPU
  std::vector<int> p2p;                       // nvmlGpuP2PStatus to each GPU; 0 is fine
  std::optional<std::int64_t> fabric_state;   // 0 not supported … 3 completed
  std::optional<std::int64_t> fabric_status;  // an NVML code
};
struct NvmlFacts : Section {
  bool present = false;             // the library could be loaded
  std::string library, load_error;  // its path; what dlopen said
  Number init;                      // NVML's answer to nvmlInit, 0 is fine
  Text driver_version, nvml_version;
  Number cuda_version;  // 13000; the newest that the driver runs
  Number count;
  std::vector<Gpu> gpus;
  std::vector<std::string> missing_functions;
  std::string step;  // what it was doing; stays where the probe ended early
};

struct LogEvent {
  std::string kind;  // xid | mismatch | oom | p2p
  std::string gpu;   // PCI address
  int code = 0;
  std::string text;
};
struct KernelLogFacts : Section {
  std::string from;
  std::vector<LogEvent> events;  // oldest first
};

struct CdiSpec {
  std::string file, version, kind, error;
  std::vector<std::string> devices;
  std::vector<std::string> missing_paths;
};
struct Docker {
  bool client = false, snap = false, package = false;
  std::string socket;  // "" where DOCKER_HOST names no local one
  bool socket_exists = false;
  Text server;  // its version; absent or unknown: it does not answer
  std::vector<std::string> runtimes, cdi_dirs, cdi_devices, security;
  std::string default_runtime, cgroup_driver, operating_system;
  std::optional<bool> cdi_enabled;  // daemon.json features.cdi
  std::string config_error;         // daemon.json
};
struct EngineFacts : Section {
  Docker docker;
  Text crun, runc;                    // their paths
  Text podman, containerd;            //  // versions
  Text oci;                           // envkit's own engine was tried: "runc 1.1.5"
  std::string oci_next;               // what would help it
  Text toolkit, libnvidia_container;  // versions
  bool toolkit_hook = false;          // nvidia-container-runtime-hook is on the PATH
  std::optional<bool> no_cgroups;     // of the toolkit's config.toml
  std::string toolkit_mode;
  std::vector<CdiSpec> cdi;
};

struct Interface {
  std::string name;
  bool up = false, loopback = false, physical = false;
  std::int64_t speed = 0;  // Mbit/s
};
struct RdmaDevice {
  std::string name, link, state;
};
struct NetworkFacts : Section {
  std::vector<Interface> interfaces;
  std::vector<RdmaDevice> rdma;
  Text hostname_address;
  Text firewall;                        // "ufw"
  std::vector<std::int64_t> listening;  // TCP ports
};

struct PythonPackage {
  std::string name, version, directory;
};
struct PythonFacts : Section {
  std::vector<PythonPackage> packages;  // torch and what must fit it
  Text torch_cuda;                      // of the first torch: "12.8"; "" for a CPU build
  std::vector<LibraryCopy> foreign;     // libcudnn and libnccl that come before torch's own
  Text nvcc;                            // "12.4"
};

struct LockedPackage {
  std::string name, version;
};
struct ProjectFacts : Section {
  bool found = false;
  std::string file, error;  // envkit.toml does not parse
  std::string lock;         // fits | missing | stale | damaged
  std::string lock_detail;
  std::string torch, cuda, python;  // of the lock; the request's where there is none
  std::vector<LockedPackage> locked;
  std::string gpus;                 // [run] gpus
  std::int64_t most_processes = 0;  // the largest number of ranks that a job names
  std::string shm;
};

struct Facts {
  int schema = kFactsSchema;
  std::string root = "/";
  std::string date;  // when it was looked at, "2026-11-25"; "" for a captured tree
  SystemFacts system;
  StorageFacts storage;
  PciFacts pci;
  DriverFacts driver;
  NvmlFacts nvml;
  KernelLogFacts kernel_log;
  EngineFacts engines;
  NetworkFacts network;
  PythonFacts python;
  ProjectFacts project;
  std::vector<std::string> problems;  // what of a facts file made no sense
};

}  // namespace envkit::doctor
