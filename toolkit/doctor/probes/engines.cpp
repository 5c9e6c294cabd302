#include <errno.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/process.h"
#include "doctor/probes/probes.h"

namespace envkit::doctor {
namespace {

using nlohmann::json;

std::string StringOf(const json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

std::vector<std::string> StringsOf(const json& object, const char* name) {
  std::vector<std::string> out;
  const auto found = object.find(name);
  if (found == object.end()) return out;
  if (found->is_object())
    for (const auto& [key, value] : found->items()) out.push_back(key);
  if (found->is_array())
    for (const json& one : *found)
      if (one.is_string()) out.push_back(one.get<std::string>());
  return out;
}

// GET /info over the daemon's socket, without docker's client, which takes ten times as long. HTTP
// 1.0: the answer ends with the connection.
std::optional<std::string> AskDaemon(const std::string& socket_path, std::string& why) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_path.size() >= sizeof address.sun_path) {
    why = "the socket's path is too long";
    return std::nullopt;
  }
  std::memcpy(address.sun_path, socket_path.c_str(), socket_path.size() + 1);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval limit{1, 500000};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  std::string answer;
  constexpr std::string_view kRequest = "GET /info HTTP/1.0\r\nHost: docker\r\n\r\n";
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      send(fd, kRequest.data(), kRequest.size(), MSG_NOSIGNAL) < 0) {
    why = std::strerror(errno);
    close(fd);
    return std::nullopt;
  }
  char buffer[16384];
  constexpr std::size_t kMost = std::size_t{4} << 20;
  ssize_t got = 0;
  while (answer.size() < kMost && (got = recv(fd, buffer, sizeof buffer, 0)) > 0)
    answer.append(buffer, static_cast<std::size_t>(got));
  if (got < 0) why = errno == EAGAIN ? "no answer within 1.5 s" : std::strerror(errno);
  close(fd);
  if (got < 0) return std::nullopt;
  const std::size_t body = answer.find("\r\n\r\n");
  if (body == std::string::npos) {
    why = "it did not answer in HTTP";
    return std::nullopt;
  }
  return answer.substr(body + 4);
}

void ProbeDocker(const Root& root, Docker& docker) {
  docker.snap = root.Exists("/snap/bin/docker");
  docker.package = root.Exists("/usr/bin/dockerd") || root.Exists("/usr/sbin/dockerd");
  docker.client =
      docker.snap || root.Exists("/usr/bin/docker") || (root.live() && FindExecutable("docker"));
  docker.socket = "/var/run/docker.sock";
  const auto environment = ProbeEnvironment(root);
  if (const auto host = environment.find("DOCKER_HOST");
      host != environment.end() && !host->second.empty())
    docker.socket = host->second.starts_with("unix://") ? host->second.substr(7) : "";
  if (const std::string config = root.Read("/etc/docker/daemon.json"); !config.empty())
    ParseDockerConfig(config, docker);
  docker.server.from = docker.socket.empty() ? "DOCKER_HOST" : docker.socket;
  std::optional<std::string> info;
  if (docker.socket.empty()) {
    docker.server.unknown = "DOCKER_HOST names no local socket; docker info was asked";
    info = root.Ask("docker-info.json", {"docker", "info", "--format", "{{json .}}"});
  } else if (root.live()) {
    docker.socket_exists = root.Exists(docker.socket);
    if (docker.socket_exists) info = AskDaemon(docker.socket, docker.server.unknown);
  } else {
    docker.socket_exists = root.Exists(docker.socket);
    info = root.Ask("docker-info.json", {});
    if (!info && docker.socket_exists) docker.server.unknown = root.ReadLine(docker.socket);
  }
  if (info) ParseDockerInfo(*info, docker);
}

Text VersionOf(const Root& root, const char* program) {
  Text fact;
  fact.from = std::string(program) + " --version";
  const auto printed = root.Ask(program, {program, "--version"});
  if (!printed) return fact;
  const std::string version = FirstVersion(*printed);
  if (version.empty()) {
    fact.unknown = fact.from + " prints no version";
  } else {
    fact.value = version;
  }
  return fact;
}

Text PathOf(const Root& root, const std::string& program) {
  Text fact;
  fact.from = "/usr/bin, /usr/sbin, /usr/local/bin";
  for (const char* directory : {"/usr/bin/", "/usr/sbin/", "/usr/local/bin/"})
    if (root.Exists(directory + program)) fact.value = directory + program;
  return fact;
}

// "no-cgroups = true" in a section of the toolkit's TOML; two keys of a file that we do not own
// are read as lines, so that any other oddity in it does not matter.
void ReadToolkitConfig(const Root& root, EngineFacts& facts) {
  std::string section;
  for (const std::string& raw : Lines(root.Read("/etc/nvidia-container-runtime/config.toml"))) {
    const std::string line = Trimmed(raw);
    if (line.starts_with('[')) section = line;
    const std::size_t equals = line.find('=');
    if (equals == std::string::npos || line.starts_with('#')) continue;
    const std::string key = Trimmed(line.substr(0, equals));
    std::string value = Trimmed(line.substr(equals + 1, line.find('#', equals) - equals - 1));
    if (section == "[nvidia-container-cli]" && key == "no-cgroups")
      facts.no_cgroups = value == "true";
    if (section == "[nvidia-container-runtime]" && key == "mode" && value.size() > 1)
      facts.toolkit_mode = value.substr(1, value.size() - 2);
  }
}

void ProbeCdi(const Root& root, EngineFacts& facts) {
  for (const std::string directory : {"/etc/cdi", "/var/run/cdi"}) {
    for (const std::string& name : root.List(directory)) {
      if (!name.ends_with(".json") && !name.ends_with(".yaml")) continue;
      const std::string file = directory + "/" + name;
      const std::string text = root.Read(file);
      CdiSpec spec = ParseCdi(text, file);
      if (spec.error.empty() && !spec.kind.starts_with("nvidia.com/")) continue;
      constexpr std::size_t kMost = 50;
      for (const std::string& path : CdiHostPaths(text, file))
        if (spec.missing_paths.size() < kMost && !root.Exists(path))
          spec.missing_paths.push_back(path);
      facts.cdi.push_back(std::move(spec));
    }
  }
}

}  // namespace

void ParseDockerInfo(std::string_view text, Docker& docker) {
  const json info = json::parse(text, nullptr, false);
  if (!info.is_object() || StringOf(info, "ServerVersion").empty()) {
    docker.server.unknown = info.is_object() && !StringOf(info, "message").empty()
                                ? StringOf(info, "message")
                                : "its answer to /info makes no sense";
    return;
  }
  docker.server.value = StringOf(info, "ServerVersion");
  docker.server.unknown.clear();
  docker.runtimes = StringsOf(info, "Runtimes");
  docker.default_runtime = StringOf(info, "DefaultRuntime");
  docker.cgroup_driver = StringOf(info, "CgroupDriver");
  docker.operating_system = StringOf(info, "OperatingSystem");
  docker.cdi_dirs = StringsOf(info, "CDISpecDirs");
  docker.security = StringsOf(info, "SecurityOptions");
  const auto devices = info.find("DiscoveredDevices");
  if (devices != info.end() && devices->is_array())
    for (const json& device : *devices)
      if (device.is_object() && !StringOf(device, "ID").empty())
        docker.cdi_devices.push_back(StringOf(device, "ID"));
}

void ParseDockerConfig(std::string_view text, Docker& docker) {
  const json config = json::parse(text, nullptr, false);
  if (!config.is_object()) {
    docker.config_error = "/etc/docker/daemon.json is no JSON object";
    return;
  }
  const auto features = config.find("features");
  if (features != config.end() && features->is_object() && features->contains("cdi") &&
      (*features)["cdi"].is_boolean())
    docker.cdi_enabled = (*features)["cdi"].get<bool>();
}

void ProbeEngines(const Root& root, EngineFacts& facts) {
  ProbeDocker(root, facts.docker);
  facts.crun = PathOf(root, "crun");
  facts.runc = PathOf(root, "runc");
  facts.podman = VersionOf(root, "podman");
  facts.toolkit = VersionOf(root, "nvidia-ctk");
  facts.libnvidia_container = VersionOf(root, "nvidia-container-cli");
  facts.toolkit_hook = root.Exists("/usr/bin/nvidia-container-runtime-hook") ||
                       root.Exists("/usr/local/bin/nvidia-container-runtime-hook");
  ReadToolkitConfig(root, facts);
  ProbeCdi(root, facts);
  // A program of Go's takes 30 MB and 50 ms to say its version: only where somebody asks.
  if (!facts.cdi.empty()) facts.containerd = VersionOf(root, "containerd");
  // The session tries it; here a captured tree may tell.
  facts.oci.from = "envkit's own engine";
  facts.oci.unknown = "it was not tried";
  if (const auto kept = root.live() ? std::nullopt : root.Ask("oci", {})) {
    const bool works = !kept->starts_with("failed: ");
    facts.oci.unknown = works ? "" : Trimmed(kept->substr(8));
    if (works) facts.oci.value = Trimmed(*kept);
  }
}

}  // namespace envkit::doctor
