// Container engines and what gives them GPUs.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>

#include "doctor/rule.h"
#include "doctor/versions.h"

namespace envkit::doctor {
namespace {

const char kDaemon[] = "docker info";
const char kMakeCdi[] = "sudo nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml";

bool Has(const std::vector<std::string>& all, std::string_view one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

bool Inside(const Facts& facts) { return facts.system.container.value.has_value(); }

// For rules on GPUs in docker: why they do not apply here; "" where they do.
std::string NoDockerGpus(const Facts& facts) {
  if (Inside(facts)) return "this is inside a container";
  if (!HasGpu(facts)) return kNoGpu;
  if (OnWsl(facts)) return "on WSL";
  if (!facts.engines.docker.server) return "no Docker daemon answers";
  return "";
}

int DockerMajor(const Facts& facts) {
  return Branch(facts.engines.docker.server.value.value_or(""));
}

bool NamesGpu(const std::vector<std::string>& devices) {
  return std::any_of(devices.begin(), devices.end(), [](const std::string& device) {
    return device.starts_with("nvidia.com/gpu");
  });
}

const CdiSpec* GpuSpec(const Facts& facts) {
  for (const CdiSpec& spec : facts.engines.cdi)
    if (spec.kind == "nvidia.com/gpu") return &spec;
  return nullptr;
}

// Findings on docker matter less where envkit's own engine works.
Severity WithoutDocker(const Facts& facts) {
  return facts.engines.oci ? Severity::kInfo : Severity::kWarn;
}

Outcome D01(const Facts& facts) {
  if (!facts.engines.unknown.empty()) return Unknown(facts.engines.unknown);
  const Docker& docker = facts.engines.docker;
  if (Inside(facts) && !docker.socket_exists) return NotApplicable("this is inside a container");
  if (docker.snap && docker.package) {
    return Found(Severity::kWarn, "Docker is installed twice: as a snap and as a package")
        .Show("snap", "/snap/bin/docker", "/snap")
        .Show("package", "dockerd", "/usr/bin")
        .Why("Each has its own daemon, images and configuration; GPUs work in at most one of them.")
        .Run("sudo snap remove docker");
  }
  if (!docker.client && !docker.package && !docker.socket_exists)
    return NotApplicable("docker is not installed");
  if (docker.server) return Pass();
  const std::string instead =
      facts.engines.oci ? "until then envkit uses its own engine (--engine oci)" : "";
  if (docker.socket_exists && docker.server.unknown.find("ermission denied") != std::string::npos) {
    Outcome found = Found(WithoutDocker(facts), "This user may not use Docker");
    found.Show("socket", docker.server.unknown, docker.socket)
        .Why("The daemon's socket belongs to the group docker, which this user is not in.")
        .Run("sudo usermod -aG docker $USER", "then log in again");
    if (!instead.empty()) found.Say(instead);
    return found;
  }
  Outcome found = Found(WithoutDocker(facts), "Docker is installed, and its daemon does not run");
  found.Show("daemon", docker.server.unknown.empty() ? "no socket" : docker.server.unknown,
             docker.server.from);
  if (!docker.config_error.empty()) {
    found.Show("configuration", docker.config_error, "/etc/docker/daemon.json")
        .Why("The daemon refuses to start with a broken configuration file.")
        .Run("sudo dockerd --validate");
  } else {
    const bool without = facts.system.systemd && !*facts.system.systemd;
    found
        .Why(without ? "Nobody started it, and this machine has no systemd that would."
                     : "Nobody started it.")
        .Run(without ? "sudo service docker start" : "sudo systemctl enable --now docker");
  }
  if (!instead.empty()) found.Say(instead);
  return found;
}

Outcome D02(const Facts& facts) {
  if (Inside(facts)) return NotApplicable("this is inside a container");
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  if (!facts.engines.toolkit && !facts.engines.libnvidia_container)
    return NotApplicable("the NVIDIA Container Toolkit is not installed");
  for (const LibraryCopy& copy : facts.driver.libraries)
    if (copy.name == "libnvidia-ml.so.1") return Pass();
  return Found(Severity::kFail, "The driver's libraries are missing: no container gets a GPU")
      .Show("libnvidia-ml.so.1", "not found", "ld.so.cache and the driver's directories")
      .Show("toolkit",
            facts.engines.toolkit ? facts.engines.toolkit : facts.engines.libnvidia_container)
      .Why("The toolkit is installed and the driver's user-space part is not.")
      .Run(InstallDriver(facts, true));
}

Outcome D03(const Facts& facts) {
  if (const std::string why = NoDockerGpus(facts); !why.empty()) return NotApplicable(why);
  const Docker& docker = facts.engines.docker;
  constexpr int kCdiOnly = 29;
  const std::string restart = "sudo systemctl restart docker";
  if (DockerMajor(facts) >= kCdiOnly) {
    if (NamesGpu(docker.cdi_devices) || GpuSpec(facts) != nullptr) return Pass();
    return Found(Severity::kFail, "Docker finds no GPUs: it wants a CDI specification")
        .Show("docker", *docker.server, kDaemon)
        .Show("CDI specifications", "none for nvidia.com/gpu", "/etc/cdi, /var/run/cdi")
        .Why("Docker 29 takes GPUs from CDI: \"failed to discover GPU vendor from CDI\".")
        .Run(facts.engines.toolkit ? "" : InstallToolkit(facts))
        .Run(kMakeCdi);
  }
  if (facts.engines.toolkit_hook) return Pass();
  return Found(Severity::kFail,
               "docker --gpus fails: the NVIDIA Container Toolkit is not installed")
      .Show("docker", *docker.server, kDaemon)
      .Show("nvidia-container-runtime-hook", "not found", "/usr/bin")
      .Why("\"could not select device driver\": the daemon looks for this hook when it starts.")
      .Run(InstallToolkit(facts))
      .Run("sudo nvidia-ctk runtime configure --runtime=docker")
      .Run(restart);
}

Outcome D04(const Facts& facts) {
  if (const std::string why = NoDockerGpus(facts); !why.empty()) return NotApplicable(why);
  if (!facts.engines.toolkit_hook) return NotApplicable("the toolkit is not installed");
  if (Has(facts.engines.docker.runtimes, "nvidia")) return Pass();
  return Found(Severity::kInfo, "Docker does not know the runtime \"nvidia\"")
      .Show("runtimes", fmt::format("{}", fmt::join(facts.engines.docker.runtimes, " ")), kDaemon)
      .Why(
          "--gpus works without it; what asks for --runtime=nvidia (compose files, Kubernetes) "
          "does not.")
      .Run("sudo nvidia-ctk runtime configure --runtime=docker")
      .Run("sudo systemctl restart docker");
}

Outcome D05(const Facts& facts) {
  if (Inside(facts)) return NotApplicable("this is inside a container");
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  const CdiSpec* spec = GpuSpec(facts);
  if (spec == nullptr) return NotApplicable("no CDI specification for GPUs");
  std::set<std::string> named;
  for (const CdiSpec& one : facts.engines.cdi)
    if (one.kind == "nvidia.com/gpu") named.insert(one.devices.begin(), one.devices.end());
  for (const Gpu& gpu : facts.nvml.gpus) {
    if (gpu.mig.value_or(false) || named.contains(std::to_string(gpu.index)) ||
        named.contains(gpu.uuid) || !gpu.error.empty())
      continue;
    return Found(Severity::kFail, GpuName(gpu) + " is not in the CDI specification")
        .Show("it names", fmt::format("{}", fmt::join(named, " ")), spec->file)
        .Show("GPUs here", fmt::to_string(facts.nvml.gpus.size()), "NVML")
        .Why("The specification was made before this GPU was there: \"unresolvable CDI devices\".")
        .Run(std::string("sudo nvidia-ctk cdi generate --output=") + spec->file)
        .Run("sudo systemctl restart nvidia-cdi-refresh", "or, where that service is installed");
  }
  const Docker& docker = facts.engines.docker;
  if (docker.server && docker.cdi_enabled == false) {
    return Found(Severity::kWarn,
                 "Docker's CDI support is switched off, and a CDI specification is there")
        .Show("features.cdi", "false", "/etc/docker/daemon.json")
        .Show("specification", spec->file, "/etc/cdi, /var/run/cdi")
        .Why("--device nvidia.com/gpu=all is \"unresolvable\" for this daemon.")
        .Run("sudo nvidia-ctk runtime configure --runtime=docker --cdi.enabled")
        .Run("sudo systemctl restart docker");
  }
  return Pass();
}

Outcome D06(const Facts& facts) {
  if (facts.engines.cdi.empty()) return NotApplicable("no CDI specification");
  for (const CdiSpec& spec : facts.engines.cdi) {
    const std::string anew = "sudo nvidia-ctk cdi generate --output=" + spec.file;
    if (!spec.error.empty()) {
      return Found(Severity::kFail,
                   "A CDI specification cannot be read: the engine ignores or refuses it")
          .Show("specification", spec.error, spec.file)
          .Why("The file is damaged or was edited by hand.")
          .Run(anew);
    }
    if (spec.missing_paths.empty()) continue;
    Outcome found = Found(Severity::kFail, "A CDI specification names files that are gone");
    constexpr std::size_t kShown = 3;
    for (std::size_t i = 0; i < std::min(kShown, spec.missing_paths.size()); ++i)
      found.Show("gone", spec.missing_paths[i], spec.file);
    if (spec.missing_paths.size() > kShown)
      found.Show("and", fmt::format("{} more", spec.missing_paths.size() - kShown), spec.file);
    return found.Why("The driver was updated after the specification was made.").Run(anew);
  }
  return Pass();
}

Outcome D07(const Facts& facts) {
  if (facts.engines.cdi.size() < 2) return NotApplicable("fewer than two CDI specifications");
  std::map<std::string, const CdiSpec*> first;
  for (const CdiSpec& spec : facts.engines.cdi) {
    for (const std::string& device : spec.devices) {
      const std::string name = spec.kind + "=" + device;
      const auto [known, fresh] = first.emplace(name, &spec);
      if (fresh || known->second == &spec) continue;
      return Found(Severity::kWarn, "Two CDI specifications name the same device")
          .Show("device", name, known->second->file)
          .Show("and again", name, spec.file)
          .Why(
              "The one in /var/run/cdi wins; the other is stale, or wins where the engine reads "
              "that directory alone.")
          .Run("sudo rm " + known->second->file, "after making sure that the other one is right");
    }
  }
  return Pass();
}

Outcome D08(const Facts& facts) {
  const CdiSpec* spec = GpuSpec(facts);
  if (spec == nullptr) return NotApplicable("no CDI specification for GPUs");
  if (CompareNumbers(spec->version, "0.7.0") < 0) return Pass();
  const struct {
    const char *name, *least;
    const Text& version;
  } engines[] = {{"docker", "26.1", facts.engines.docker.server},
                 {"podman", "5.1", facts.engines.podman},
                 {"containerd", "1.7.16", facts.engines.containerd}};
  for (const auto& engine : engines) {
    if (!engine.version || CompareNumbers(*engine.version, engine.least) >= 0) continue;
    return Found(Severity::kFail,
                 fmt::format("{} {} does not read this CDI specification's version", engine.name,
                             *engine.version))
        .Show("cdiVersion", spec->version, spec->file)
        .Show(engine.name, *engine.version + ", wants " + engine.least, engine.version.from)
        .Why("The toolkit wrote a newer format than the engine knows; the engine skips the file.")
        .Say(fmt::format("update {} to {} or newer", engine.name, engine.least));
  }
  return Pass();
}

Outcome D09(const Facts& facts) {
  const Text& version = facts.engines.toolkit;
  if (!version) return NotApplicable("the NVIDIA Container Toolkit is not installed");
  std::string hole;
  if (CompareNumbers(*version, "1.16.1") <= 0)
    hole = "CVE-2024-0132";
  else if (CompareNumbers(*version, "1.17.3") <= 0)
    hole = "CVE-2025-23359";
  else if (CompareNumbers(*version, "1.17.7") <= 0)
    hole = "CVE-2025-23266";
  const std::string name = "nvidia-container-toolkit";
  std::string update;
  switch (FamilyOf(facts.system)) {
    case Family::kDebian:
    case Family::kUbuntu:
      update = "sudo apt-get install --only-upgrade nvidia-container-toolkit libnvidia-container1";
      break;
    case Family::kRedHat:
      update = "sudo dnf upgrade " + name;
      break;
    case Family::kSuse:
      update = "sudo zypper update " + name;
      break;
    case Family::kArch:
      update = "sudo pacman -Syu " + name;
      break;
    case Family::kOther:
      break;
  }
  if (!hole.empty()) {
    return Found(Severity::kWarn, fmt::format("nvidia-container-toolkit {} has a known container "
                                              "escape ({}); want 1.18.0 or newer",
                                              *version, hole))
        .Show("toolkit", version)
        .Why("A crafted image can take over the host.")
        .Run(update);
  }
  const Text& library = facts.engines.libnvidia_container;
  if (library && Leading(*library, 2) != Leading(*version, 2)) {
    return Found(Severity::kWarn, "The toolkit and libnvidia-container are of different releases")
        .Show("toolkit", version)
        .Show("libnvidia-container", library)
        .Why("They are released together and tested as a pair.")
        .Run(update);
  }
  return Pass();
}

Outcome D10(const Facts& facts) {
  if (const std::string why = NoDockerGpus(facts); !why.empty()) return NotApplicable(why);
  if (!facts.engines.toolkit) return NotApplicable("the NVIDIA Container Toolkit is not installed");
  // auto is legacy before 1.18, and injects devices as CDI does from then on.
  const bool legacy =
      facts.engines.toolkit_mode == "legacy" || CompareNumbers(*facts.engines.toolkit, "1.18") < 0;
  if (!legacy || facts.engines.docker.cgroup_driver != "systemd" || facts.driver.char_links)
    return Pass();
  return Found(Severity::kWarn,
               "Running containers lose their GPUs at the next systemctl daemon-reload")
      .Show("cgroup driver", facts.engines.docker.cgroup_driver, kDaemon)
      .Show("toolkit", *facts.engines.toolkit + ", legacy mode", facts.engines.toolkit.from)
      .Show("/dev/char/195:*", "missing", "/dev/char")
      .Why(
          "systemd rewrites the containers' device rules and does not know what the hook added: "
          "\"Failed to initialize NVML: Unknown Error\".")
      .Run("sudo nvidia-ctk system create-dev-char-symlinks --create-all")
      .Say("then make the running containers anew; CDI devices do not have this problem");
}

Outcome D11(const Facts& facts) {
  if (const std::string why = NoDockerGpus(facts); !why.empty()) return NotApplicable(why);
  if (!facts.engines.toolkit) return NotApplicable("the NVIDIA Container Toolkit is not installed");
  const auto& security = facts.engines.docker.security;
  const bool rootless = std::any_of(security.begin(), security.end(), [](const std::string& one) {
    return one.find("rootless") != std::string::npos;
  });
  if (!facts.engines.no_cgroups.value_or(false)) {
    if (!rootless) return Pass();
    if (GpuSpec(facts) != nullptr) return Pass();
    return Found(Severity::kFail,
                 "Rootless Docker cannot give GPUs: the toolkit still wants cgroups")
        .Show("docker", "rootless", kDaemon)
        .Show("no-cgroups", "false", "/etc/nvidia-container-runtime/config.toml")
        .Why("An ordinary user's daemon may not set device cgroups.")
        .Run("sudo nvidia-ctk config --set nvidia-container-cli.no-cgroups --in-place");
  }
  if (rootless) return Pass();
  return Found(Severity::kFail,
               "The toolkit leaves the device cgroup alone, and this Docker enforces one")
      .Show("no-cgroups", "true", "/etc/nvidia-container-runtime/config.toml")
      .Why(
          "no-cgroups is for rootless daemons; here containers get \"Failed to initialize NVML: "
          "Unknown Error\".")
      .Run("sudo nvidia-ctk config --set nvidia-container-cli.no-cgroups=false --in-place");
}

Outcome D12(const Facts& facts) {
  if (!HasGpu(facts)) return NotApplicable(kNoGpu);
  if (!facts.system.selinux) return NotApplicable("SELinux is not used");
  if (*facts.system.selinux != "enforcing") return Pass();
  if (!facts.engines.docker.server && !facts.engines.podman)
    return NotApplicable("no engine that it would hold back");
  return Found(Severity::kInfo, "SELinux may keep containers from the GPUs")
      .Show("SELinux", facts.system.selinux)
      .Why(
          "Without a policy for them, device nodes are closed to containers: \"Insufficient "
          "Permissions\".")
      .Run("docker run --security-opt label=disable --gpus all …", "for one container")
      .Run("sudo setsebool -P container_use_devices on", "for all");
}

Outcome D13(const Facts& facts) {
  if (!facts.engines.unknown.empty()) return Unknown(facts.engines.unknown);
  const EngineFacts& engines = facts.engines;
  if (engines.oci || engines.docker.server) return Pass();
  if (Inside(facts)) return NotApplicable("inside a container jobs run directly: envkit launch");
  if (engines.oci.unknown == "it was not tried")
    return Unknown("envkit's own engine was not tried");
  Outcome found = Found(Severity::kFail, "No container engine works here");
  found.Show("oci", engines.oci.unknown.empty() ? "not there" : engines.oci.unknown,
             engines.oci.from);
  found.Show("docker", engines.docker.client ? "no daemon answers" : "not installed",
             engines.docker.server.from);
  found.Why("envkit run needs one of the two.");
  if (!engines.crun && !engines.runc)
    found.Run(Install(facts, {"crun", "crun", "crun", "crun"}), "what envkit's own engine needs");
  for (std::size_t at = 0; at < engines.oci_next.size();) {
    const std::size_t end = std::min(engines.oci_next.find('\n', at), engines.oci_next.size());
    found.Say(engines.oci_next.substr(at, end - at));
    at = end + 1;
  }
  return found;
}

Outcome D14(const Facts& facts) {
  const SystemFacts& system = facts.system;
  if (!system.user_id) return Unknown("the user is not known");
  if (*system.user_id == 0) return NotApplicable("root needs no user namespaces");
  if (Inside(facts)) return NotApplicable("this is inside a container");
  const Severity severity = facts.engines.docker.server ? Severity::kWarn : Severity::kFail;
  const char title[] = "Ordinary users may not make user namespaces: the oci engine needs them";
  const auto blocked = [&](const Number& fact, const char* name, const char* want) {
    return Found(severity, title)
        .Show(name, fmt::to_string(*fact), fact.from)
        .Why("This setting of the kernel forbids it.")
        .Run(fmt::format(
            "echo '{}={}' | sudo tee /etc/sysctl.d/60-envkit.conf && sudo sysctl --system", name,
            want));
  };
  if (system.max_user_namespaces && *system.max_user_namespaces == 0)
    return blocked(system.max_user_namespaces, "user.max_user_namespaces", "15000");
  if (system.unprivileged_userns && *system.unprivileged_userns == 0)
    return blocked(system.unprivileged_userns, "kernel.unprivileged_userns_clone", "1");
  if (system.apparmor_userns && *system.apparmor_userns == 1 && !facts.engines.oci)
    return blocked(system.apparmor_userns, "kernel.apparmor_restrict_unprivileged_userns", "0");
  if (system.subuid && !*system.subuid) {
    return Found(Severity::kInfo, "This user has no range of subordinate ids")
        .Show("entry", "none", system.subuid.from)
        .Why("Building an image as an ordinary user needs one.")
        .Run("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER");
  }
  return Pass();
}

Outcome D15(const Facts& facts) {
  if (const std::string why = NoDockerGpus(facts); !why.empty()) return NotApplicable(why);
  const Docker& docker = facts.engines.docker;
  if (docker.snap && !docker.package)
    return Found(Severity::kWarn,
                 "Docker from the snap store does not see the NVIDIA Container Toolkit")
        .Show("docker", "/snap/bin/docker", "/snap")
        .Why("The snap is confined; the host's hook is not on its path.")
        .Run("sudo snap remove docker")
        .Run(Install(facts, {"docker.io", "docker", "docker", "docker"}));
  if (docker.operating_system.find("Docker Desktop") == std::string::npos) return Pass();
  return Found(Severity::kWarn,
               "Docker Desktop runs containers in a virtual machine that has no GPU")
      .Show("docker", docker.operating_system, kDaemon)
      .Why("On Linux, Docker Desktop does not pass GPUs through.")
      .Run("docker context use default", "with Docker's own packages installed")
      .Say("or: envkit run --engine oci");
}

}  // namespace

std::vector<Rule> EngineRules() {
  return {
      {"D01",
       "Docker's daemon answers",
       "The daemon's socket, this user's right to it, and two Dockers side by side. envkit needs "
       "no "
       "daemon: its own engine (oci) runs without.",
       {},
       D01},
      {"D02",
       "the driver's libraries are there for containers",
       "\"load library failed: libnvidia-ml.so.1\": the host lacks the driver, whatever the image "
       "has.",
       {"H02", "H04"},
       D02},
      {"D03",
       "docker --gpus works",
       "Up to Docker 28 the daemon looks for nvidia-container-runtime-hook when it starts: \"could "
       "not "
       "select device driver\" without. From 29 on it takes CDI: \"failed to discover GPU vendor "
       "from "
       "CDI\".",
       {"D01", "H02", "H03", "D02"},
       D03},
      {"D04",
       "Docker knows the runtime \"nvidia\"",
       "\"unknown or invalid runtime name: nvidia\" where it does not.",
       {"D03"},
       D04},
      {"D05",
       "the CDI specification names every GPU",
       "\"unresolvable CDI devices nvidia.com/gpu=all\" where a device is in no specification that "
       "the "
       "engine reads.",
       {"H02", "H03", "D06", "H11"},
       D05},
      {"D06",
       "the CDI specification's files are there",
       "A specification lists the driver's files by their full names; a driver update leaves it "
       "behind.",
       {"H02"},
       D06},
      {"D07",
       "each CDI device is named once",
       "The same device in /etc/cdi and /var/run/cdi: the later directory shadows the earlier.",
       {},
       D07},
      {"D08",
       "the engine reads the CDI version",
       "cdiVersion 0.7.0 wants docker 26.1, podman 5.1 or containerd 1.7.16.",
       {},
       D08},
      {"D09",
       "the toolkit has no known hole",
       "CVE-2024-0132 (up to 1.16.1), CVE-2025-23359 (up to 1.17.3), CVE-2025-23266 (up to "
       "1.17.7).",
       {},
       D09},
      {"D10",
       "containers keep their GPUs",
       "The legacy hook with systemd's cgroups and without /dev/char/195:* links: \"Failed to "
       "initialize "
       "NVML: Unknown Error\" after systemctl daemon-reload.",
       {"D03"},
       D10},
      {"D11",
       "the toolkit's no-cgroups fits the daemon",
       "no-cgroups is for rootless daemons and wrong for others.",
       {"D03"},
       D11},
      {"D12",
       "SELinux lets containers at the GPUs",
       "\"NVML: Insufficient Permissions\" where it does not.",
       {"D03"},
       D12},
      {"D13",
       "a container engine works",
       "Tries envkit's own engine (namespaces and an OCI runtime) and asks Docker's daemon.",
       {"D14"},
       D13},
      {"D14",
       "ordinary users may make user namespaces",
       "user.max_user_namespaces, Debian's kernel.unprivileged_userns_clone, Ubuntu's AppArmor "
       "restriction, /etc/subuid.",
       {},
       D14},
      {"D15", "this Docker can pass GPUs", "The snap and Docker Desktop cannot.", {}, D15},
  };
}

}  // namespace envkit::doctor
