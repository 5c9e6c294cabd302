#include "engine/oci_config.h"

#include <fmt/format.h>

#include "engine/isolate.h"

namespace envkit {
namespace {

using nlohmann::json;

json Mounted(const std::string& target, const char* type, const std::string& source,
             std::vector<std::string> options) {
  return {
      {"destination", target}, {"type", type}, {"source", source}, {"options", std::move(options)}};
}

json Bound(const std::string& host, const std::string& target, bool read_only) {
  return Mounted(target, "bind", host, {"rbind", "rprivate", read_only ? "ro" : "rw"});
}

json Capabilities(const RunPlan& plan) {
  json names = json::array();
  if (plan.uid == 0)
    for (const std::string& name : DefaultCapabilityNames()) names.push_back("CAP_" + name);
  return {{"bounding", names}, {"effective", names}, {"permitted", names}};
}

json Mounts(const RunPlan& plan, const OciSetting& setting) {
  json mounts = json::array();
  if (setting.pid_namespace) {
    mounts.push_back(Mounted("/proc", "proc", "proc", {"nosuid", "noexec", "nodev"}));
  } else {
    mounts.push_back(Bound("/proc", "/proc", false));
  }
  mounts.push_back(
      Mounted("/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}));
  std::vector<std::string> pts{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"};
  if (setting.tty_group) pts.push_back("gid=5");
  mounts.push_back(Mounted("/dev/pts", "devpts", "devpts", std::move(pts)));
  mounts.push_back(
      Mounted("/dev/shm", "tmpfs", "shm",
              {"nosuid", "noexec", "nodev", "mode=1777", fmt::format("size={}", plan.shm_bytes)}));
  mounts.push_back(Mounted("/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}));
  // Only the owner of the network namespace may mount a sysfs.
  if (setting.user_namespace) {
    mounts.push_back(
        Mounted("/sys", "bind", "/sys", {"rbind", "rprivate", "nosuid", "noexec", "nodev", "ro"}));
  } else {
    mounts.push_back(Mounted("/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", "ro"}));
  }
  mounts.push_back(
      Mounted("/sys/fs/cgroup", "tmpfs", "tmpfs", {"nosuid", "noexec", "nodev", "mode=755", "ro"}));
  if (!setting.hosts.empty()) mounts.push_back(Bound(setting.hosts, "/etc/hosts", false));
  if (!setting.resolv.empty()) mounts.push_back(Bound(setting.resolv, "/etc/resolv.conf", false));
  for (const Mount& mount : plan.mounts)
    mounts.push_back(Bound(mount.host.string(), mount.container, mount.read_only));
  for (const std::string& directory : plan.scratch) {
    mounts.push_back(Mounted(directory, "tmpfs", "tmpfs", {"nosuid", "nodev", "mode=0777"}));
  }
  // Bind mounts, since nobody may make nodes in a user namespace.
  for (const std::string& device : setting.gpus.devices)
    mounts.push_back(Mounted(device, "bind", device, {"rbind", "rprivate", "nosuid", "noexec"}));
  for (const Mount& mount : setting.gpus.mounts)
    mounts.push_back(Bound(mount.host.string(), mount.container, true));
  return mounts;
}

json Environment(const RunPlan& plan, const GpuEdits& gpus) {
  auto env = plan.env;
  for (const auto& [name, value] : gpus.env) {
    auto [at, added] = env.emplace(name, value);
    if (added) continue;
    at->second = name == "LD_LIBRARY_PATH" ? value + ":" + at->second : value;
  }
  json list = json::array();
  for (const auto& [name, value] : env) list.push_back(fmt::format("{}={}", name, value));
  return list;
}

}  // namespace

json OciConfig(const RunPlan& plan, const OciSetting& setting) {
  json namespaces = json::array({{{"type", "mount"}}, {{"type", "ipc"}}, {{"type", "uts"}}});
  if (setting.pid_namespace) namespaces.push_back({{"type", "pid"}});
  if (plan.network == "private") namespaces.push_back({{"type", "network"}});
  json linux_part = {{"maskedPaths",
                      {"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys",
                       "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
                       "/proc/sched_debug", "/proc/scsi", "/sys/firmware"}},
                     {"readonlyPaths",
                      {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}}};
  if (setting.user_namespace) {
    // The invoking user is 0 outside and has the own id again inside, with one id and no newuidmap.
    namespaces.push_back({{"type", "user"}});
    linux_part["uidMappings"] =
        json::array({{{"containerID", plan.uid}, {"hostID", 0}, {"size", 1}}});
    linux_part["gidMappings"] =
        json::array({{{"containerID", plan.gid}, {"hostID", 0}, {"size", 1}}});
  }
  linux_part["namespaces"] = std::move(namespaces);

  json config = {{"ociVersion", "1.0.2"},
                 {"hostname", plan.hostname},
                 {"root", {{"path", setting.root}, {"readonly", false}}},
                 {"process",
                  {{"terminal", plan.terminal},
                   {"user", {{"uid", plan.uid}, {"gid", plan.gid}}},
                   {"args", plan.argv},
                   {"env", Environment(plan, setting.gpus)},
                   {"cwd", plan.workdir},
                   {"capabilities", Capabilities(plan)},
                   {"noNewPrivileges", true}}},
                 {"mounts", Mounts(plan, setting)},
                 {"linux", std::move(linux_part)}};
  for (const GpuHook& hook : setting.gpus.hooks) {
    json entry = {{"path", hook.path}, {"args", hook.args}};
    if (!hook.env.empty()) entry["env"] = hook.env;
    config["hooks"][hook.name].push_back(std::move(entry));
  }
  return config;
}

}  // namespace envkit
