// What a command needs before it builds or runs: the project, its lock, the recipes and the store;
// and the choice between the image's variants. Used by `envkit build` and `envkit run`.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/terminal.h"
#include "host/facts.h"
#include "image/build.h"

namespace envkit {

struct Environment {
  Project project;
  Lock lock;  // fits the project
  Recipes recipes;
  Store store;
};

// Looks for envkit.toml from DIRECTORY upwards. A missing, damaged or stale lock is kUsage; a stale
// one names the changes. ARCHITECTURE "" is this machine's.
Result<Environment> LoadEnvironment(const std::filesystem::path& directory,
                                    const std::string& architecture = "");

// "cpu" or "cuda", by the project and by what this machine has. A GPU that is there and cannot be
// used, or whose driver is too old for LOCK's CUDA, is kMissing: nobody wants to train on the CPU
// by accident. WHY says what decided it.
Result<std::string> ChooseVariant(const Project& project, const Lock& lock, const HostFacts& facts,
                                  std::string& why);

// "auto" is what COMMAND needs: a Python script or program "python", a session "dev", else "train".
std::string ChooseProfile(const std::string& wanted, const std::vector<std::string>& command);
// The profile of the project's main job (train, else the first), where ASKED is empty.
std::string MainProfile(const Project& project, const std::string& asked);

// The build's commands, run in the engine's sandbox.
Result<BuildSandboxResult> RunInBuildSandbox(const BuildSandbox& sandbox);

}  // namespace envkit
