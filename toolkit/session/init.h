// `envkit init`: a first envkit.toml from flags, questions and what this machine can run.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "base/result.h"
#include "launch/save_config.h"
#include "matrix/advise.h"

namespace envkit {

// The flags; what is empty is chosen.
struct InitRequest {
  std::string name, torch, cuda, script;
  bool force = false;
  bool accelerate = false;  // the questions of `accelerate config` too
};

// What would be written, and why.
struct InitPlan {
  std::string name, torch, cuda, script;  // script empty: envkit's own trainer
  std::string why;         // of torch and cuda: "the newest that driver 550 runs …"
  std::string text;        // of envkit.toml
  std::string accelerate;  // of .accelerate/config.yaml; empty: none
};

// Of the base that init writes.
inline constexpr char kInitPython[] = "3.13";

// The project's name from a directory's: "My Project" → "my-project".
std::string NameFrom(const std::filesystem::path& directory);
// train.py or main.py where DIRECTORY has one; else empty.
std::string ScriptIn(const std::filesystem::path& directory);

// Pure but for the name of DIRECTORY and the scripts in it. kUsage: a value that cannot be, or a
// combination that does not exist or does not run here, with the nearest that does.
Result<InitPlan> PlanInit(const Matrix& matrix, const Machine& machine, const InitRequest& request,
                          const std::filesystem::path& directory, bool other_indexes);

// Asks for what REQUEST leaves open, with PLAN's choices as the answers of an empty line.
// AskLine: see launch/save_config.h.
InitRequest AskInit(InitRequest request, const InitPlan& plan, const AskLine& ask);

// Puts CONFIG's answers into PLAN: the ranks into envkit.toml, and accelerate's own file.
Result<void> AddConfig(InitPlan& plan, const SavedConfig& config,
                       const std::filesystem::path& directory);

// Writes DIRECTORY/envkit.toml at once; kUsage where there is one, unless REQUEST says --force.
Result<void> WriteInit(const std::filesystem::path& directory, const InitPlan& plan, bool force);

// Init with all of it: this machine, envkit's matrix, the user's indexes. ASK empty: no questions.
Result<InitPlan> Init(const std::filesystem::path& directory, const InitRequest& request,
                      const AskLine& ask);

}  // namespace envkit
