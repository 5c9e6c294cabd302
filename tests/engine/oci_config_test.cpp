#include "engine/oci_config.h"

#include <doctest/doctest.h>

namespace envkit {
namespace {

using nlohmann::json;

RunPlan OciPlan() {
  RunPlan plan;
  plan.job = "train";
  plan.engine = "oci";
  plan.argv = {"envkit-launch", "python", "-m", "train"};
  plan.env = {{"HOME", "/home/user"}, {"LD_LIBRARY_PATH", "/opt/lib"}};
  plan.mounts = {{"/data/sets", "/data", true}, {"/home/ann/project", "/workspace", false}};
  plan.scratch = {"/home/user"};
  plan.uid = 1000;
  plan.gid = 100;
  plan.hostname = "mnist";
  plan.shm_bytes = 8ull << 30;
  return plan;
}

// The mount of TARGET; null where there is none. The last one hides the others.
json MountOf(const json& config, const std::string& target) {
  json found;
  for (const json& mount : config["mounts"])
    if (mount["destination"] == target) found = mount;
  return found;
}

std::vector<std::string> Namespaces(const json& config) {
  std::vector<std::string> names;
  for (const json& entry : config["linux"]["namespaces"]) names.push_back(entry["type"]);
  return names;
}

}  // namespace

TEST_CASE("a plan as an OCI runtime's configuration") {
  OciSetting setting;
  setting.root = "/scratch/root";
  const json config = OciConfig(OciPlan(), setting);
  CHECK(config["ociVersion"] == "1.0.2");
  CHECK(config["hostname"] == "mnist");
  CHECK(config["root"] == json::parse(R"({"path": "/scratch/root", "readonly": false})"));
  CHECK(config["process"] == json::parse(R"({
    "terminal": false,
    "user": {"uid": 1000, "gid": 100},
    "args": ["envkit-launch", "python", "-m", "train"],
    "env": ["HOME=/home/user", "LD_LIBRARY_PATH=/opt/lib"],
    "cwd": "/workspace",
    "capabilities": {"bounding": [], "effective": [], "permitted": []},
    "noNewPrivileges": true})"));
  CHECK(config["linux"]["maskedPaths"].size() == 10);
  CHECK(config["linux"]["readonlyPaths"] ==
        json::parse(R"(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                        "/proc/sysrq-trigger"])"));
  CHECK(!config.contains("hooks"));
  RunPlan plan = OciPlan();
  plan.terminal = true;
  CHECK(OciConfig(plan, setting)["process"]["terminal"] == true);
}

TEST_CASE("an OCI container's mounts, in their order") {
  OciSetting setting;
  setting.hosts = "/scratch/hosts";
  setting.resolv = "/scratch/resolv.conf";
  CHECK(OciConfig(OciPlan(), setting)["mounts"] == json::parse(R"([
    {"destination": "/proc", "type": "proc", "source": "proc",
     "options": ["nosuid", "noexec", "nodev"]},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
     "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
     "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
     "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=8589934592"]},
    {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
     "options": ["nosuid", "noexec", "nodev"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs",
     "options": ["nosuid", "noexec", "nodev", "ro"]},
    {"destination": "/sys/fs/cgroup", "type": "tmpfs", "source": "tmpfs",
     "options": ["nosuid", "noexec", "nodev", "mode=755", "ro"]},
    {"destination": "/etc/hosts", "type": "bind", "source": "/scratch/hosts",
     "options": ["rbind", "rprivate", "rw"]},
    {"destination": "/etc/resolv.conf", "type": "bind", "source": "/scratch/resolv.conf",
     "options": ["rbind", "rprivate", "rw"]},
    {"destination": "/data", "type": "bind", "source": "/data/sets",
     "options": ["rbind", "rprivate", "ro"]},
    {"destination": "/workspace", "type": "bind", "source": "/home/ann/project",
     "options": ["rbind", "rprivate", "rw"]},
    {"destination": "/home/user", "type": "tmpfs", "source": "tmpfs",
     "options": ["nosuid", "nodev", "mode=0777"]}])"));
  const json without = OciConfig(OciPlan(), {});
  CHECK(MountOf(without, "/etc/hosts").is_null());
  CHECK(MountOf(without, "/etc/resolv.conf").is_null());
}

TEST_CASE("ordinary users get their own id again, with one mapping of one id") {
  const json root = OciConfig(OciPlan(), {});
  CHECK(Namespaces(root) == std::vector<std::string>{"mount", "ipc", "uts", "pid"});
  CHECK(!root["linux"].contains("uidMappings"));
  CHECK(!root["linux"].contains("gidMappings"));

  OciSetting setting;
  setting.user_namespace = true;
  setting.tty_group = false;
  const json ordinary = OciConfig(OciPlan(), setting);
  CHECK(Namespaces(ordinary) == std::vector<std::string>{"mount", "ipc", "uts", "pid", "user"});
  CHECK(ordinary["linux"]["uidMappings"] ==
        json::parse(R"([{"containerID": 1000, "hostID": 0, "size": 1}])"));
  CHECK(ordinary["linux"]["gidMappings"] ==
        json::parse(R"([{"containerID": 100, "hostID": 0, "size": 1}])"));
  // No sysfs of one's own, and no group 5 for terminals.
  CHECK(MountOf(ordinary, "/sys")["type"] == "bind");
  CHECK(MountOf(ordinary, "/sys")["options"] ==
        json::parse(R"(["rbind", "rprivate", "nosuid", "noexec", "nodev", "ro"])"));
  CHECK(MountOf(ordinary, "/dev/pts")["options"].dump().find("gid=") == std::string::npos);
}

TEST_CASE("only uid 0 has capabilities, docker's default set") {
  RunPlan plan = OciPlan();
  plan.uid = 0;
  const json expected = json::parse(R"(["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER",
    "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT", "CAP_AUDIT_WRITE"])");
  const json capabilities = OciConfig(plan, {})["process"]["capabilities"];
  for (const char* set : {"bounding", "effective", "permitted"}) {
    CAPTURE(set);
    CHECK(capabilities[set] == expected);
  }
  CHECK(!capabilities.contains("ambient"));
  plan.uid = 1;
  CHECK(OciConfig(plan, {})["process"]["capabilities"]["bounding"].empty());
}

TEST_CASE("without a pid namespace the host's /proc is bound") {
  OciSetting setting;
  setting.pid_namespace = false;
  const json config = OciConfig(OciPlan(), setting);
  CHECK(Namespaces(config) == std::vector<std::string>{"mount", "ipc", "uts"});
  CHECK(MountOf(config, "/proc") ==
        json::parse(R"({"destination": "/proc", "type": "bind", "source": "/proc",
                        "options": ["rbind", "rprivate", "rw"]})"));
}

TEST_CASE("a private network is a namespace, the host's is none") {
  RunPlan plan = OciPlan();
  plan.network = "private";
  CHECK(Namespaces(OciConfig(plan, {})) ==
        std::vector<std::string>{"mount", "ipc", "uts", "pid", "network"});
}

TEST_CASE("GPU edits: the driver's libraries come before the image's, its variables win") {
  OciSetting setting;
  setting.gpus.env = {{"HOME", "/driver"},
                      {"LD_LIBRARY_PATH", "/opt/envkit/driver"},
                      {"NVIDIA_VISIBLE_DEVICES", "void"}};
  setting.gpus.devices = {"/dev/nvidia0"};
  setting.gpus.mounts = {{"/usr/lib/libcuda.so.1", "/opt/envkit/driver/libcuda.so.1", true}};
  setting.gpus.hooks = {
      {"createContainer", "/usr/bin/nvidia-cdi-hook", {"nvidia-cdi-hook", "a"}, {}},
      {"createContainer", "/usr/bin/other", {"other"}, {"A=1"}}};
  RunPlan plan = OciPlan();
  const json config = OciConfig(plan, setting);
  CHECK(config["process"]["env"] ==
        json::parse(R"(["HOME=/driver", "LD_LIBRARY_PATH=/opt/envkit/driver:/opt/lib",
                        "NVIDIA_VISIBLE_DEVICES=void"])"));
  CHECK(MountOf(config, "/dev/nvidia0") ==
        json::parse(R"({"destination": "/dev/nvidia0", "type": "bind", "source": "/dev/nvidia0",
                        "options": ["rbind", "rprivate", "nosuid", "noexec"]})"));
  CHECK(MountOf(config, "/opt/envkit/driver/libcuda.so.1") ==
        json::parse(R"({"destination": "/opt/envkit/driver/libcuda.so.1", "type": "bind",
                        "source": "/usr/lib/libcuda.so.1",
                        "options": ["rbind", "rprivate", "ro"]})"));
  CHECK(config["hooks"] == json::parse(R"({"createContainer": [
    {"path": "/usr/bin/nvidia-cdi-hook", "args": ["nvidia-cdi-hook", "a"]},
    {"path": "/usr/bin/other", "args": ["other"], "env": ["A=1"]}]})"));
  plan.env.erase("LD_LIBRARY_PATH");
  CHECK(OciConfig(plan, setting)["process"]["env"][1] == "LD_LIBRARY_PATH=/opt/envkit/driver");
}

}  // namespace envkit
