#include "session/show_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/process.h"
#include "engine/engine.h"

namespace envkit {
namespace {

std::string Reasons(const RunPlan& plan) {
  std::size_t width = 0;
  for (const Reason& reason : plan.reasons) width = std::max(width, reason.setting.size());
  std::string text;
  for (const Reason& reason : plan.reasons) {
    text += fmt::format("  {:<{}}  {}\n", reason.setting, width, reason.why);
  }
  return text;
}

}  // namespace

std::string PlanText(const RunPlan& plan) {
  std::string text;
  std::string line;
  const std::vector<std::string> argv = DockerArgv(plan);
  for (std::size_t i = 0; i < argv.size(); ++i) {
    std::string piece = ShellQuote({argv[i]});
    // An option stays with its value.
    const bool option = argv[i].starts_with('-') && argv[i].find('=') == std::string::npos;
    if (option && argv[i] != "--" && i + 1 < argv.size() && !argv[i + 1].starts_with('-')) {
      piece += " " + ShellQuote({argv[++i]});
    }
    if (!line.empty() && line.size() + piece.size() + 3 > 100) {
      text += line + " \\\n";
      line = "  " + piece;
    } else {
      line += (line.empty() ? "" : " ") + piece;
    }
  }
  return text + line + "\n" + Reasons(plan);
}

nlohmann::ordered_json PlanToJson(const RunPlan& plan) {
  nlohmann::ordered_json json;
  json["schema"] = 1;
  json["job"] = plan.job;
  json["engine"] = plan.engine;
  json["image"] = {{"name", plan.image.name}, {"config_digest", plan.image.config_digest}};
  json["argv"] = plan.argv;
  json["env"] = plan.env;
  json["mounts"] = nlohmann::ordered_json::array();
  for (const Mount& mount : plan.mounts) {
    json["mounts"].push_back({{"host", mount.host.string()},
                              {"container", mount.container},
                              {"read_only", mount.read_only}});
  }
  json["scratch"] = plan.scratch;
  json["workdir"] = plan.workdir;
  json["uid"] = plan.uid;
  json["gid"] = plan.gid;
  json["hostname"] = plan.hostname;
  json["gpus"] = plan.gpus;
  json["gpu_devices"] = plan.gpu_devices;
  json["shm_bytes"] = plan.shm_bytes;
  json["memory_bytes"] = nullptr;
  if (plan.memory_bytes) json["memory_bytes"] = *plan.memory_bytes;
  json["unlimited_memlock"] = plan.unlimited_memlock;
  json["network"] = plan.network;
  json["terminal"] = plan.terminal;
  json["reasons"] = nlohmann::ordered_json::array();
  for (const Reason& reason : plan.reasons) {
    json["reasons"].push_back({{"setting", reason.setting}, {"why", reason.why}});
  }
  json["docker_argv"] = DockerArgv(plan);
  return json;
}

std::string ExplainText(const Project& project, const RunPlan& plan) {
  std::size_t width = 0;
  for (const auto& [key, origin] : project.origin) width = std::max(width, key.size());
  std::string text = fmt::format("{}\n", project.file.filename().string());
  for (const auto& [key, origin] : project.origin) {
    text += fmt::format("  {:<{}}  {}\n", key, width, origin);
  }
  return text + "this run\n" + Reasons(plan);
}

}  // namespace envkit
