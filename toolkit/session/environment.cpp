#include "session/environment.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/files.h"
#include "engine/engine.h"
#include "session/driver.h"

namespace envkit {
namespace {

Result<Lock> LoadLock(const Project& project, const Recipes& recipes) {
  const std::filesystem::path file = LockFile(project);
  const bool foreign = project.architecture != HostArchitecture();
  const std::string command =
      foreign ? "envkit lock --architecture " + project.architecture : "envkit lock";
  if (!std::filesystem::exists(file)) {
    return Usage(fmt::format("{} has no {}", project.root.string(), file.filename().string()),
                 "Make it:  " + command);
  }
  ENVKIT_TRY(const std::string text, ReadFile(file));
  ENVKIT_TRY(Lock lock, ParseLock(text, file));
  std::string changes;
  for (const std::string& change :
       LockDifferences(lock, InputsOf(project, RecipesDigest(recipes)))) {
    changes += "\n  " + change;
  }
  if (changes.empty()) return lock;
  return Usage(file.filename().string() + " does not fit envkit.toml any more" + changes,
               "Renew it:  " + command);
}

}  // namespace

Result<Environment> LoadEnvironment(const std::filesystem::path& directory,
                                    const std::string& architecture) {
  Environment environment;
  ENVKIT_TRY(environment.project, LoadProject(directory));
  if (!architecture.empty()) environment.project.architecture = architecture;
  ENVKIT_TRY(const std::filesystem::path share, ShareDirectory());
  ENVKIT_TRY(environment.recipes,
             LoadRecipes(share / "images", ProfileOptions(environment.project)));
  ENVKIT_TRY(environment.lock, LoadLock(environment.project, environment.recipes));
  ENVKIT_TRY(environment.store, Store::Open());
  return environment;
}

Result<std::string> ChooseVariant(const Project& project, const Lock& lock, const HostFacts& facts,
                                  std::string& why) {
  if (project.environment.cuda == "cpu") {
    why = "envkit.toml [environment] cuda = \"cpu\"";
    return "cpu";
  }
  const GpuVerdict verdict = JudgeGpus(facts);
  if (verdict.state == GpuState::kUnusable) {
    return Missing(verdict.why, verdict.next + "\nOr say which image: --variant cpu|cuda");
  }
  if (verdict.state == GpuState::kNone) {
    why = "no GPU found";
    return "cpu";
  }
  ENVKIT_CHECK(CheckDriver(lock, facts));
  why = "this machine has NVIDIA GPUs";
  return "cuda";
}

std::string ChooseProfile(const std::string& wanted, const std::vector<std::string>& command) {
  if (wanted != "auto") return wanted;
  if (command.empty()) return "train";
  const std::string program = std::filesystem::path(command.front()).filename().string();
  const auto one_of = [&](std::initializer_list<std::string_view> names) {
    return std::find(names.begin(), names.end(), program) != names.end();
  };
  if (program.starts_with("jupyter") ||
      one_of({"shell", "tensorboard", "cmake", "gdb", "git", "ninja", "nvcc", "sshd"}))
    return "dev";
  if (program.ends_with(".py") || program.starts_with("python") || program.starts_with("pip") ||
      one_of({"accelerate", "torchrun", "g++", "gcc"}))
    return "python";
  return "train";
}

std::string MainProfile(const Project& project, const std::string& asked) {
  auto job = project.jobs.find("train");
  if (job == project.jobs.end()) job = project.jobs.begin();
  const bool any = job != project.jobs.end();
  std::string wanted = asked.empty() ? project.profile : asked;
  if (asked.empty() && any && job->second.profile) wanted = *job->second.profile;
  return ChooseProfile(wanted, any ? job->second.command : std::vector<std::string>());
}

Result<BuildSandboxResult> RunInBuildSandbox(const BuildSandbox& sandbox) {
  SandboxSpec spec;
  spec.lower = sandbox.lower;
  for (const auto& bind : sandbox.binds) {
    spec.mounts.push_back({bind.host, bind.container, bind.read_only});
  }
  spec.argv = sandbox.argv;
  spec.env = sandbox.env;
  spec.workdir = sandbox.workdir;
  spec.capture = sandbox.capture;
  spec.heard = sandbox.heard;
  ENVKIT_TRY(SandboxResult result, RunInSandbox(spec));
  return BuildSandboxResult{result.exit_code, std::move(result.output)};
}

}  // namespace envkit
