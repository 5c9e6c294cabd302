#include "session/prepare.h"

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <cstdlib>

#include "engine/engine.h"
#include "image/prune.h"
#include "image/stored.h"
#include "launch/lease.h"
#include "session/driver.h"
#include "session/run_probe.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

RunSetting SettingOf(const Terminal& terminal) {
  RunSetting setting;
  // Not /tmp, which a container should not see.
  const fs::path locks = LeaseDirectory(std::getenv("ENVKIT_LOCK_DIR"));
  if (locks != "/tmp") setting.locks = locks;
  setting.uid = geteuid();
  setting.gid = getegid();
  if (const passwd* entry = getpwuid(setting.uid)) setting.user = entry->pw_name;
  setting.input_tty = isatty(0) == 1;
  setting.output_tty = isatty(1) == 1;
  setting.columns = terminal.options().columns;
  return setting;
}

}  // namespace

Result<Prepared> Prepare(const fs::path& directory, const RunRequest& request,
                         const HostFacts& facts, Terminal& terminal) {
  const bool show_only = request.dry_run || request.explain;
  Prepared prepared;
  ENVKIT_TRY(prepared.environment, LoadEnvironment(directory));
  Environment& env = prepared.environment;
  RunSetting& setting = prepared.setting;
  setting = SettingOf(terminal);
  std::string profile = request.profile.empty() ? env.project.profile : request.profile;
  std::vector<std::string> command = request.arguments;
  if (!request.job.empty()) {
    ENVKIT_TRY(const Job* job, FindJob(env.project, request.job));
    if (request.profile.empty() && job->profile) profile = *job->profile;
    command = job->command;
  }
  if (!request.builtin.empty() && request.profile.empty()) profile = "dev";
  profile = ChooseProfile(profile, command);
  setting.variant_why = "--variant";
  setting.variant = request.variant;
  if (request.gpus == "none" && setting.variant.empty()) {
    setting.variant = "cpu";
    setting.variant_why = "--gpus none";
  }
  if (setting.variant.empty()) {
    ENVKIT_TRY(setting.variant, ChooseVariant(env.project, env.lock, facts, setting.variant_why));
  } else if (setting.variant == "cuda" && request.gpus != "none" &&
             JudgeGpus(facts).state == GpuState::kUsable) {
    // Before a build of minutes; an image for GPUs may also run without any.
    ENVKIT_CHECK(CheckDriver(env.lock, facts));
  }
  ENVKIT_CHECK(CheckNamedGpus(request, setting, facts));
  // A wrong option, or a mount that is not there, is told before a build of minutes.
  if (!show_only) ENVKIT_CHECK(PlanRun(env.project, request, setting, facts));
  ENVKIT_TRY(const ImagePlan plan,
             PlanImage(env.project, env.lock, env.recipes, profile, setting.variant));
  // From looking for the image to its lease nobody may prune.
  ENVKIT_TRY(const FileLock hold, HoldStore(env.store));
  ENVKIT_TRY(prepared.image, FindImage(plan, env.store));
  setting.image.name = fmt::format("{}:{}-{}", env.project.name, profile, setting.variant);
  if (!prepared.image && show_only) setting.variant_why += "; not built yet: envkit build";
  if (!prepared.image && !show_only) {
    ENVKIT_TRY(prepared.image, BuildImage(env.project, env.lock, env.recipes, profile,
                                          setting.variant, env.store, RunInBuildSandbox, terminal));
  }
  if (prepared.image) {
    setting.image = RootImageOf(*prepared.image);
    if (!show_only) {
      RecordUse(env.project.root, *prepared.image, env.store);
      ENVKIT_TRY(prepared.lease, HoldImage(env.store, prepared.image->config_digest));
    }
  }
  for (const auto& [name, data] : env.project.data) {
    if (show_only && !data.path) {
      setting.data[name] = env.store.data / "data" / data.sha256;
    } else {
      ENVKIT_TRY(setting.data[name], EnsureData(env.project, data, env.store, terminal));
    }
  }
  return prepared;
}

Result<void> GiveToEngine(const RunSetting& setting, const Image& image, Terminal& terminal) {
  if (!KeepsImages(setting.engine)) return {};
  return LoadImage(
      setting.engine, setting.image, DiffIdsOf(image),
      [&image](int fd, std::size_t known) { return WriteDockerArchive(image, fd, known); },
      terminal);
}

}  // namespace envkit
