#include "session/render_services.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>

#include "base/files.h"
#include "base/process.h"
#include "session/builtin.h"
#include "session/compose.h"
#include "session/keys.h"
#include "session/prepare.h"
#include "session/services.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

struct Planned {
  Prepared prepared;
  RunPlan plan;
};

// What `envkit run` would do here, in docker.
Result<Planned> PlanOf(const fs::path& directory, const RenderRequest& request, RunRequest run,
                       const HostFacts& facts, Terminal& terminal) {
  run.engine = "docker";
  run.dry_run = true;  // builds nothing
  run.gpus = request.gpus;
  run.memory = request.memory;
  run.shm = request.shm;
  run.variant = request.variant;
  Planned planned;
  ENVKIT_TRY(planned.prepared, Prepare(directory, run, facts, terminal));
  RunSetting& setting = planned.prepared.setting;
  setting.engine = "docker";
  setting.input_tty = setting.output_tty = false;
  const Project& project = planned.prepared.environment.project;
  if (!run.job.empty()) {
    setting.record = project.root / ".envkit" / "runs" / ("compose-" + run.job);
  }
  ENVKIT_TRY(planned.plan, PlanRun(project, run, setting, facts));
  return planned;
}

// Ports and files of the dev profile's services.
struct Servers {
  int ssh = 0, jupyter = 0, tensorboard = 0;
  fs::path secrets;
  std::string user;
};

Result<void> WriteSecrets(const SessionPlace& place, const Servers& servers, const Planned& dev,
                          const RunRequest& run) {
  ENVKIT_CHECK(MakePrivateDirectory(place.directory));
  ENVKIT_CHECK(MakePrivateDirectory(servers.secrets));
  for (const char* name : {"jupyter.token", "tensorboard.token"}) {
    if (fs::exists(servers.secrets / name)) continue;  // links stay good
    ENVKIT_TRY(const std::string token, RandomToken());
    ENVKIT_CHECK(WriteFileAtomic(servers.secrets / name, token, 0600));
  }
  ENVKIT_CHECK(EnsureKeys(place));
  ENVKIT_TRY(const std::string host_key, ReadFile(place.directory / "keys/ssh_host_ed25519_key"));
  ENVKIT_CHECK(WriteFileAtomic(servers.secrets / "ssh_host_ed25519_key", host_key, 0600));
  ENVKIT_TRY(const std::string authorized, AuthorizedKeys(place));
  ENVKIT_CHECK(WriteFileAtomic(servers.secrets / "authorized_keys", authorized, 0600));
  ENVKIT_CHECK(WriteFileAtomic(servers.secrets / "sshd_config",
                               SshdConfig(servers.ssh, servers.user, dev.plan.env), 0600));
  return WriteAccounts(run, dev.prepared.setting);
}

void SayWaysIn(const SessionPlace& place, const Servers& servers, Terminal& terminal) {
  const auto token = [&](const char* name) {
    return ReadFile(servers.secrets / name).value_or("");
  };
  terminal.Answer("jupyter  " + JupyterUrl(servers.jupyter, token("jupyter.token")));
  terminal.Answer("tensorboard " + TensorboardUrl(servers.tensorboard, token("tensorboard.token")));
  const fs::path keys = place.directory / "keys";
  terminal.Answer("ssh      " +
                  ShellQuote({"ssh", "-p", std::to_string(servers.ssh), "-i", keys / "id_ed25519",
                              "-o", "UserKnownHostsFile=" + (keys / "known_hosts").string(), "-o",
                              "HostKeyAlias=envkit-" + place.id, servers.user + "@127.0.0.1"}));
}

}  // namespace

Result<int> RenderCompose(const fs::path& directory, const RenderRequest& request,
                          Terminal& terminal) {
  ENVKIT_TRY(const Project project, LoadProject(directory));
  ENVKIT_TRY(const SessionPlace place, FindSessionPlace(project.root, project.name));
  const HostFacts facts = ProbeHost();
  const bool write = !request.output.empty();
  ComposeSetting setting;
  setting.project = project.name;
  setting.base =
      write ? fs::absolute(request.output).lexically_normal().parent_path() : project.root;
  std::vector<ComposeService> services;
  const std::string job = request.job.empty() ? "train" : request.job;
  if (!request.job.empty() || project.jobs.contains(job)) {
    RunRequest run;
    run.job = job;
    ENVKIT_TRY(Planned planned, PlanOf(directory, request, run, facts, terminal));
    const std::string tag = planned.plan.image.name;
    setting.images.push_back(tag.substr(tag.find(':') + 1, tag.rfind('-') - tag.find(':') - 1));
    services.push_back({job, std::move(planned.plan), "train", 0, {}});
  }

  // The same every time: while the services run, their ports are not free.
  const auto port = [&](const char* name) {
    return StablePort(place, std::string("compose ") + name, [](int) { return true; });
  };
  Servers servers;
  servers.secrets = setting.secrets = place.directory / "compose";
  ENVKIT_TRY(servers.ssh, port("ssh"));
  ENVKIT_TRY(servers.jupyter, port("jupyter"));
  ENVKIT_TRY(servers.tensorboard, port("tensorboard"));
  const bool root = geteuid() == 0;
  const Service all[] = {JupyterService(servers.jupyter, root),
                         TensorboardService(servers.tensorboard, kRunsInside),
                         SshService(servers.ssh)};
  const std::vector<std::string> files[] = {
      {"jupyter.token"},
      {"tensorboard.token"},
      {"authorized_keys", "ssh_host_ed25519_key", "sshd_config"}};
  for (std::size_t i = 0; i < std::size(all); ++i) {
    RunRequest run;
    run.builtin = all[i].name;
    run.session = servers.secrets;
    run.arguments = all[i].argv;
    if (all[i].name == "ssh" && root) {  // where root's sshd locks itself in
      run.arguments = {"sh", "-c", "mkdir -p /run/sshd && exec " + ShellQuote(all[i].argv)};
    }
    ENVKIT_TRY(const Planned planned, PlanOf(directory, request, run, facts, terminal));
    setting.variant = planned.prepared.setting.variant;
    servers.user = planned.plan.env.at("USER");
    if (i == 0 && write) {
      if (!planned.prepared.image) {
        return Usage("the dev image is not built yet, and the servers' accounts come from it",
                     "Build it:  envkit build --profile dev --variant " + setting.variant);
      }
      ENVKIT_CHECK(MakeDirectories(project.root / ".envkit" / "runs"));
      ENVKIT_CHECK(WriteSecrets(place, servers, planned, run));
    }
    services.push_back({all[i].name, planned.plan, "dev", all[i].port, files[i]});
  }
  setting.images.emplace_back("dev");
  const std::string text = ComposeText(setting, services);
  if (!write) {
    terminal.Answer(text);
    return 0;
  }
  ENVKIT_CHECK(WriteFileAtomic(request.output, text));
  terminal.Step("compose", request.output.string());
  SayWaysIn(place, servers, terminal);
  return 0;
}

Result<int> RenderDevContainer(const fs::path& directory, const RenderRequest& request,
                               Terminal& terminal) {
  const HostFacts facts = ProbeHost();
  RunRequest run;
  run.builtin = "shell";
  run.session = "/envkit";  // of a shell that nobody starts
  ENVKIT_TRY(const Planned planned, PlanOf(directory, request, run, facts, terminal));
  const Project& project = planned.prepared.environment.project;
  const char* home = std::getenv("HOME");
  DevContainer container{project.name, planned.prepared.setting.variant, project.root,
                         home == nullptr ? "/" : home, planned.plan};
  for (const auto& [name, value] : project.run.env) container.environment.push_back(name);
  const std::string text = DevContainerText(container);
  if (request.output.empty()) {
    terminal.Answer(text);
    terminal.Step("note", "it builds from a Dockerfile beside it: -o .devcontainer writes both");
    return 0;
  }
  ENVKIT_CHECK(MakeDirectories(request.output));
  ENVKIT_CHECK(WriteFileAtomic(request.output / "devcontainer.json", text));
  ENVKIT_CHECK(WriteFileAtomic(request.output / "Dockerfile", DevContainerDockerfile(container)));
  terminal.Step("written", (request.output / "devcontainer.json").string() + " and Dockerfile");
  return 0;
}

}  // namespace envkit
