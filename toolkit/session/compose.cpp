#include "session/compose.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/isolate.h"
#include "session/services.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kHomeInside = "/home/envkit";

// YAML's double-quoted words are JSON's; "$" is compose's own sign for variables.
std::string Flow(const Json& value) {
  std::string text;
  if (value.is_array()) {
    for (const Json& item : value) text += (text.empty() ? "" : ", ") + Flow(item);
    return "[" + text + "]";
  }
  if (value.is_object()) {
    for (const auto& [key, item] : value.items()) {
      text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", key, Flow(item));
    }
    return "{" + text + "}";
  }
  for (const char letter : value.dump()) {
    text += letter;
    if (letter == '$' && value.is_string()) text += '$';
  }
  return text;
}

// Keys are our own words, none of which means something else to YAML.
void Write(const Json& object, const std::string& indent, std::string& text) {
  for (const auto& [key, value] : object.items()) {
    text += indent + key + ":";
    const std::string flow = Flow(value);
    const bool lines = value.is_array() && (indent.size() + key.size() + flow.size() > 96 ||
                                            (!value.empty() && value.front().is_object()));
    if (value.is_object() && !value.empty()) {
      text += "\n";
      Write(value, indent + "  ", text);
    } else if (lines) {
      text += "\n";
      for (const Json& item : value) text += indent + "  - " + Flow(item) + "\n";
    } else {
      text += " " + flow + "\n";
    }
  }
}

// As the compose file names it: from its own directory where the path lies below.
std::string Shown(const fs::path& path, const fs::path& base) {
  const fs::path relative = path.lexically_relative(base);
  if (relative.empty() || *relative.begin() == "..") return path.string();
  return relative == "." ? "." : "./" + relative.string();
}

std::string SecretName(const std::string& file) {
  std::string name = file;
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

Json Gpus(const RunPlan& plan) {
  Json device = {{"driver", "nvidia"}};
  const bool cdi =
      !plan.gpu_devices.empty() && plan.gpu_devices.front().find('=') != std::string::npos;
  if (cdi) device["driver"] = "cdi";
  if (plan.gpu_devices.empty()) {
    device["count"] = "all";
  } else {
    device["device_ids"] = plan.gpu_devices;
  }
  device["capabilities"] = Json::array({"gpu"});
  Json reservations = {{"devices", Json::array({std::move(device)})}};
  return {{"resources", {{"reservations", std::move(reservations)}}}};
}

Json ServiceOf(const ComposeSetting& setting, const ComposeService& service) {
  const RunPlan& plan = service.plan;
  Json out = {{"image", plan.image.name},
              {"pull_policy", "never"},
              {"profiles", Json::array({service.profile})},
              {"entrypoint", plan.argv},
              {"command", Json::array()},
              {"working_dir", plan.workdir},
              {"user", fmt::format("{}:{}", plan.uid, plan.gid)},
              {"network_mode", "host"},
              {"ipc", "private"},
              {"shm_size", std::to_string(plan.shm_bytes)},
              {"security_opt", Json::array({"no-new-privileges:true"})}};
  if (plan.unlimited_memlock) out["ulimits"] = {{"memlock", -1}};
  if (plan.memory_bytes) out["mem_limit"] = std::to_string(*plan.memory_bytes);
  out["cap_drop"] = Json::array({"ALL"});
  if (plan.uid == 0) out["cap_add"] = DefaultCapabilityNames();
  if (plan.gpus) out["deploy"] = Gpus(plan);
  Json variables = Json::array();
  for (const auto& [name, value] : plan.env) {
    variables.push_back(fmt::format("{}={}", name, value));
  }
  out["environment"] = std::move(variables);
  out["volumes"] = Json::array();
  for (const Mount& mount : plan.mounts) {
    if (mount.container == kSessionInside) continue;  // file by file, as secrets
    Json volume = {
        {"type", "bind"}, {"source", Shown(mount.host, setting.base)}, {"target", mount.container}};
    if (mount.read_only) volume["read_only"] = true;
    out["volumes"].push_back(std::move(volume));
  }
  if (service.port > 0) {
    out["volumes"].push_back({{"type", "volume"}, {"source", "home"}, {"target", kHomeInside}});
  } else if (!plan.scratch.empty()) {
    out["tmpfs"] = Json::array();
    for (const std::string& directory : plan.scratch) {
      out["tmpfs"].push_back(directory + ":exec,mode=0777");
    }
  }
  for (const std::string& file : service.secrets) {
    out["secrets"].push_back(
        {{"source", SecretName(file)}, {"target", fmt::format("{}/{}", kSessionInside, file)}});
  }
  if (service.port > 0) {
    out["healthcheck"] = {
        {"test",
         Json::array({"CMD", "python3", "-c",
                      fmt::format("import socket; socket.create_connection(('127.0.0.1', {}), 2)",
                                  service.port)})},
        {"interval", "10s"},
        {"timeout", "5s"},
        {"start_period", "30s"},
        {"retries", 3}};
    out["restart"] = "unless-stopped";
  }
  out["stop_grace_period"] = service.port > 0 ? "15s" : "60s";
  return out;
}

}  // namespace

std::string ComposeText(const ComposeSetting& setting,
                        const std::vector<ComposeService>& services) {
  Json document = {{"services", Json::object()}};
  Json secrets = Json::object();
  bool home = false;
  for (const ComposeService& service : services) {
    document["services"][service.name] = ServiceOf(setting, service);
    home = home || service.port > 0;
    for (const std::string& file : service.secrets) {
      secrets[SecretName(file)] = {{"file", (setting.secrets / file).string()}};
    }
  }
  if (home) document["volumes"] = {{"home", Json::object()}};
  if (!secrets.empty()) document["secrets"] = std::move(secrets);
  std::string text = fmt::format(
      "# {0} for docker compose. Written, with the files that its secrets name, by\n"
      "#   envkit render compose --variant {1} -o compose.yaml\n"
      "# Docker gets the images, which are nowhere else, from:\n",
      setting.project, setting.variant);
  for (const std::string& profile : setting.images) {
    text += fmt::format("#   envkit run --engine docker --profile {} --variant {} -- true\n",
                        profile, setting.variant);
  }
  text += "# Servers listen on 127.0.0.1 of this machine alone, and let in by token or key.\n";
  Write(document, "", text);
  return text;
}

std::string DevContainerText(const DevContainer& container) {
  const RunPlan& plan = container.plan;
  Json run =
      Json::array({"--network=host", "--ipc=private", fmt::format("--shm-size={}", plan.shm_bytes),
                   "--cap-drop=ALL", "--security-opt=no-new-privileges"});
  if (plan.unlimited_memlock) run.push_back("--ulimit=memlock=-1");
  // A workspace of root's is writable to root alone, to whom nobody's number can be given.
  const bool root = plan.uid == 0;
  if (root) {
    for (const std::string& name : DefaultCapabilityNames()) run.push_back("--cap-add=" + name);
  }
  const char* user = root ? "root" : "envkit";
  Json mounts = Json::array();
  for (const Mount& mount : plan.mounts) {
    if (mount.container == plan.workdir || mount.container.starts_with("/envkit/") ||
        mount.container.starts_with("/etc/")) {
      continue;
    }
    const auto below = [&](const fs::path& place, const char* shown) {
      const std::string source = Shown(mount.host, place);
      return source.starts_with('.') ? shown + source.substr(1) : std::string();
    };
    std::string source = below(container.root, "${localWorkspaceFolder}");
    if (source.empty()) source = below(container.home, "${localEnv:HOME}");
    if (source.empty()) source = mount.host.string();
    mounts.push_back(fmt::format("type=bind,source={},target={}{}", source, mount.container,
                                 mount.read_only ? ",readonly" : ""));
  }
  Json environment = Json::object();
  for (const std::string& name : container.environment) environment[name] = plan.env.at(name);
  Json document = {
      {"name", container.project},
      {"build", {{"dockerfile", "Dockerfile"}, {"context", "."}}},
      // On the host, before docker is asked for anything: it makes the image where it is missing.
      {"initializeCommand",
       Json::array({"envkit", "run", "--engine", "docker", "--profile", "dev", "--variant",
                    container.variant, "--gpus", "none", "--", "true"})},
      {"workspaceMount",
       fmt::format("type=bind,source=${{localWorkspaceFolder}},target={}", plan.workdir)},
      {"workspaceFolder", plan.workdir},
      {"remoteUser", user},
      {"containerUser", user},
      {"updateRemoteUserUID", !root},
      {"overrideCommand", true},
      {"init", true},
      {"runArgs", std::move(run)},
      {"mounts", std::move(mounts)},
      {"containerEnv", std::move(environment)},
      {"forwardPorts", Json::array({8888, 6006})},
      {"portsAttributes",
       {{"8888", {{"label", "JupyterLab"}, {"onAutoForward", "notify"}}},
        {"6006", {{"label", "TensorBoard"}, {"onAutoForward", "notify"}}}}},
      {"postCreateCommand",
       "python3 -c 'import torch; print(f\"torch {torch.__version__}, GPUs: "
       "{torch.cuda.device_count()}\")'"},
      {"customizations",
       {{"vscode",
         {{"extensions", Json::array({"ms-python.python", "ms-toolsai.jupyter",
                                      "ms-vscode.cpptools", "ms-vscode.cmake-tools"})}}}}}};
  if (container.variant == "cuda") document["hostRequirements"] = {{"gpu", "optional"}};
  return document.dump(2) + "\n";
}

std::string DevContainerDockerfile(const DevContainer& container) {
  return fmt::format(
      "# Written by envkit render devcontainer. The image is {0}'s own; this adds a user, who "
      "gets\n"
      "# the number of whoever opens it.\n"
      "FROM {1}\n"
      "RUN useradd --uid 1000 --home-dir {2} --no-create-home --shell /bin/bash envkit && \\\n"
      "    chown envkit: {2}\n",
      container.project, container.plan.image.name, kHomeInside);
}

}  // namespace envkit
