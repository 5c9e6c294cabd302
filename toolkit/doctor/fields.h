// One list of the fields of each part of Facts, for reading and for writing: what is in it is in
// the file. V is called as v("name", value).
#pragma once

#include "doctor/facts.h"

namespace envkit::doctor {

#define ENVKIT_FIELD(name) v(#name, f.name)

template <class V>
void Fields(V& v, SystemFacts& f) {
  ENVKIT_FIELD(unknown), ENVKIT_FIELD(kernel), ENVKIT_FIELD(architecture), ENVKIT_FIELD(hostname);
  ENVKIT_FIELD(glibc), ENVKIT_FIELD(os_name), ENVKIT_FIELD(os_id), ENVKIT_FIELD(os_like);
  ENVKIT_FIELD(machine), ENVKIT_FIELD(virtualisation), ENVKIT_FIELD(container), ENVKIT_FIELD(wsl);
  ENVKIT_FIELD(wsl_driver), ENVKIT_FIELD(secure_boot), ENVKIT_FIELD(selinux);
  ENVKIT_FIELD(apparmor), ENVKIT_FIELD(slurm), ENVKIT_FIELD(kubernetes), ENVKIT_FIELD(user_id);
  ENVKIT_FIELD(user), ENVKIT_FIELD(home), ENVKIT_FIELD(groups);
  ENVKIT_FIELD(max_user_namespaces), ENVKIT_FIELD(unprivileged_userns);
  ENVKIT_FIELD(apparmor_userns), ENVKIT_FIELD(subuid), ENVKIT_FIELD(newuidmap);
  ENVKIT_FIELD(systemd), ENVKIT_FIELD(cgroups), ENVKIT_FIELD(memory_total),
      ENVKIT_FIELD(memory_available);
  ENVKIT_FIELD(memory_limit), ENVKIT_FIELD(oom_kills), ENVKIT_FIELD(cpus);
  ENVKIT_FIELD(numa_nodes), ENVKIT_FIELD(memlock_soft), ENVKIT_FIELD(memlock_hard);
  ENVKIT_FIELD(nofile_soft), ENVKIT_FIELD(nofile_hard), ENVKIT_FIELD(stack_soft);
  ENVKIT_FIELD(may_raise_limits), ENVKIT_FIELD(shm_size), ENVKIT_FIELD(environment);
}
template <class V>
void Fields(V& v, Disk& f) {
  ENVKIT_FIELD(path), ENVKIT_FIELD(purpose), ENVKIT_FIELD(free_bytes), ENVKIT_FIELD(free_inodes);
}
template <class V>
void Fields(V& v, StorageFacts& f) {
  ENVKIT_FIELD(unknown), ENVKIT_FIELD(disks);
}
template <class V>
void Fields(V& v, PciDevice& f) {
  ENVKIT_FIELD(address), ENVKIT_FIELD(id), ENVKIT_FIELD(driver), ENVKIT_FIELD(numa_node);
  ENVKIT_FIELD(link_width), ENVKIT_FIELD(max_link_width);
}
template <class V>
void Fields(V& v, PciFacts& f) {
  ENVKIT_FIELD(unknown), ENVKIT_FIELD(bus), ENVKIT_FIELD(gpus), ENVKIT_FIELD(nvswitches);
  ENVKIT_FIELD(acs_bridges), ENVKIT_FIELD(iommu_groups), ENVKIT_FIELD(iommu_type);
}
template <class V>
void Fields(V& v, DeviceNode& f) {
  ENVKIT_FIELD(path), ENVKIT_FIELD(usable), ENVKIT_FIELD(group);
}
template <class V>
void Fields(V& v, LibraryCopy& f) {
  ENVKIT_FIELD(name), ENVKIT_FIELD(path), ENVKIT_FIELD(version), ENVKIT_FIELD(found_by);
  ENVKIT_FIELD(first);
}
template <class V>
void Fields(V& v, DriverFacts& f) {
  ENVKIT_FIELD(unknown), ENVKIT_FIELD(module_version), ENVKIT_FIELD(open_module);
  ENVKIT_FIELD(disk_module_version), ENVKIT_FIELD(nouveau), ENVKIT_FIELD(nouveau_blacklisted);
  ENVKIT_FIELD(uvm), ENVKIT_FIELD(peermem), ENVKIT_FIELD(headers), ENVKIT_FIELD(dkms);
  ENVKIT_FIELD(nodes), ENVKIT_FIELD(libraries), ENVKIT_FIELD(fabric_manager_running);
  ENVKIT_FIELD(fabric_manager_version), ENVKIT_FIELD(nvswitch_nodes), ENVKIT_FIELD(char_links);
}
template <class V>
void Fields(V& v, GpuProcess& f) {
  ENVKIT_FIELD(pid), ENVKIT_FIELD(name), ENVKIT_FIELD(memory);
}
template <class V>
void Fields(V& v, Gpu& f) {
  ENVKIT_FIELD(index), ENVKIT_FIELD(error), ENVKIT_FIELD(uuid), ENVKIT_FIELD(name);
  ENVKIT_FIELD(pci), ENVKIT_FIELD(compute_capability), ENVKIT_FIELD(memory_total);
  ENVKIT_FIELD(memory_free), ENVKIT_FIELD(ecc_uncorrected), ENVKIT_FIELD(rows_correctable);
  ENVKIT_FIELD(rows_uncorrectable), ENVKIT_FIELD(rows_pending), ENVKIT_FIELD(rows_failed);
  ENVKIT_FIELD(recovery_action), ENVKIT_FIELD(clock_reasons), ENVKIT_FIELD(link_width);
  ENVKIT_FIELD(max_link_width), ENVKIT_FIELD(link_generation), ENVKIT_FIELD(max_link_generation);
  ENVKIT_FIELD(mig), ENVKIT_FIELD(persistence), ENVKIT_FIELD(mig_devices);
  ENVKIT_FIELD(compute_mode), ENVKIT_FIELD(power_limit), ENVKIT_FIELD(default_power_limit);
  ENVKIT_FIELD(temperature), ENVKIT_FIELD(processes), ENVKIT_FIELD(nvlinks);
  ENVKIT_FIELD(topology), ENVKIT_FIELD(p2p), ENVKIT_FIELD(fabric_state);
  ENVKIT_FIELD(fabric_status);
}
template <class V>
void Fields(V& v, NvmlFacts& f) {
  ENVKIT_FIELD(unknown), ENVKIT_FIELD(present), ENVKIT_FIELD(library), ENVKIT_FIELD(load_error);
  ENVKIT_FIELD(init), ENVKIT_FIELD(driver_version), ENVKIT_FIELD(nvml_version);
  ENVKIT_FIELD(cuda_version), ENVKIT_FIELD(count), ENVKIT_FIELD(gpus);
  ENVKIT_FIELD(missing_functions), ENVKIT_FIELD(step);
}
template <class V>
void Fields(V& v, LogEvent& f) {
  ENVKIT_FIELD(kind), ENVKIT_FIELD(gpu), ENVKIT_FIELD(code), ENVKIT_FIELD(text);
}
template <class V>
void Fields(V& v, KernelLogFacts& f) {
  ENVKIT_FIELD(unknown), ENVKIT_FIELD(from), ENVKIT_FIELD(events);
}
template <class V>
void Fields(V& v, CdiSpec& f) {
  ENVKIT_FIELD(file), ENVKIT_FIELD(version), ENVKIT_FIELD(kind), ENVKIT_FIELD(error);
  ENVKIT_FIELD(devices), ENVKIT_FIELD(missing_paths);
}
template <class V>
void Fields(V& v, Docker& f) {
  ENVKIT_FIELD(client), ENVKIT_FIELD(snap), ENVKIT_FIELD(package), ENVKIT_FIELD(socket);
  ENVKIT_FIELD(socket_exists), ENVKIT_FIELD(server), ENVKIT_FIELD(runtimes);
  ENVKIT_FIELD(cdi_dirs), ENVKIT_FIELD(cdi_devices), ENVKIT_FIELD(security);
  ENVKIT_FIELD(default_runtime), ENVKIT_FIELD(cgroup_driver), ENVKIT_FIELD(operating_system);
  ENVKIT_FIELD(cdi_enabled), ENVKIT_FIELD(config_error);
}
template <class V>
void Fields(V& v, EngineFacts& f) {
  ENVKIT_FIELD(unknown), ENVKIT_FIELD(docker), ENVKIT_FIELD(podman), ENVKIT_FIELD(crun);
  ENVKIT_FIELD(runc), ENVKIT_FIELD(containerd), ENVKIT_FIELD(oci), ENVKIT_FIELD(oci_next);
  ENVKIT_FIELD(toolkit), ENVKIT_FIELD(libnvidia_container), ENVKIT_FIELD(toolkit_hook);
  ENVKIT_FIELD(no_cgroups), ENVKIT_FIELD(toolkit_mode), ENVKIT_FIELD(cdi);
}
template <class V>
void Fields(V& v, Interface& f) {
  ENVKIT_FIELD(name), ENVKIT_FIELD(up), ENVKIT_FIELD(loopback), ENVKIT_FIELD(physical);
  ENVKIT_FIELD(speed);
}
template <class V>
void Fields(V& v, RdmaDevice& f) {
  ENVKIT_FIELD(name), ENVKIT_FIELD(link), ENVKIT_FIELD(state);
}
template <class V>
void Fields(V& v, NetworkFacts& f) {
  ENVKIT_FIELD(unknown), ENVKIT_FIELD(interfaces), ENVKIT_FIELD(rdma);
  ENVKIT_FIELD(hostname_address), ENVKIT_FIELD(firewall), ENVKIT_FIELD(listening);
}
template <class V>
void Fields(V& v, PythonPackage& f) {
  ENVKIT_FIELD(name), ENVKIT_FIELD(version), ENVKIT_FIELD(directory);
}
template <class V>
void Fields(V& v, PythonFacts& f) {
  ENVKIT_FIELD(unknown), ENVKIT_FIELD(packages), ENVKIT_FIELD(torch_cuda);
  ENVKIT_FIELD(foreign), ENVKIT_FIELD(nvcc);
}
template <class V>
void Fields(V& v, LockedPackage& f) {
  ENVKIT_FIELD(name), ENVKIT_FIELD(version);
}
template <class V>
void Fields(V& v, ProjectFacts& f) {
  ENVKIT_FIELD(unknown), ENVKIT_FIELD(found), ENVKIT_FIELD(file), ENVKIT_FIELD(error);
  ENVKIT_FIELD(lock), ENVKIT_FIELD(lock_detail), ENVKIT_FIELD(torch), ENVKIT_FIELD(cuda);
  ENVKIT_FIELD(python);
  ENVKIT_FIELD(locked), ENVKIT_FIELD(gpus), ENVKIT_FIELD(most_processes), ENVKIT_FIELD(shm);
}
template <class V>
void Fields(V& v, Facts& f) {
  ENVKIT_FIELD(schema), ENVKIT_FIELD(root), ENVKIT_FIELD(date);
  ENVKIT_FIELD(system), ENVKIT_FIELD(storage);
  ENVKIT_FIELD(pci), ENVKIT_FIELD(driver), ENVKIT_FIELD(nvml), ENVKIT_FIELD(kernel_log);
  ENVKIT_FIELD(engines), ENVKIT_FIELD(network), ENVKIT_FIELD(python), ENVKIT_FIELD(project);
}

#undef ENVKIT_FIELD

}  // namespace envkit::doctor
