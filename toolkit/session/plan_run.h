// From a project, an image and a machine to a RunPlan: pure, so that tests compare plans for
// machines that are not here.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "engine/run_plan.h"
#include "host/facts.h"
#include "project/project.h"

namespace envkit {

// The command line's part; what is not given comes from envkit.toml.
struct RunRequest {
  std::string job;                     // empty: COMMAND as it is
  std::vector<std::string> arguments;  // after "--": the job's own, or the whole command
  std::string engine = "auto", variant, profile, gpus, shm, memory, processes;
  bool share = false;  // GPUs that another launch has
  bool dry_run = false, explain = false;
  // Of built-in jobs and sessions, whose command is in ARGUMENTS (see builtin.h).
  std::string builtin;            // jupyter, tensorboard, shell, dev
  std::filesystem::path session;  // its directory, shown at kSessionInside
  std::filesystem::path home;     // kept as HOME; empty: one that vanishes
};

// What was found out before: nothing here is decided by PlanRun.
struct RunSetting {
  std::string engine;   // docker | oci
  std::string variant;  // cpu | cuda
  std::string variant_why;
  RootImage image;
  std::map<std::string, std::filesystem::path> data;  // [data.NAME] → directory or file here
  std::filesystem::path record;  // the run's own directory; empty for a command
  std::filesystem::path locks;   // where launches of this machine lease GPUs; empty: nowhere
  unsigned uid = 0, gid = 0;
  std::string user;
  bool input_tty = false, output_tty = false;
  int columns = 80;
};

// The job of that name; kUsage with the nearest name and all of them.
Result<const Job*> FindJob(const Project& project, const std::string& name);

// Of GPUs that are named one by one (request.gpus), which PlanRun leaves out where there are none.
// kMissing: one is not there; kUsage: the image of SETTING is one for CPUs.
Result<void> CheckNamedGpus(const RunRequest& request, const RunSetting& setting,
                            const HostFacts& facts);

// kUsage: a number of ranks, a size or a GPU that makes no sense; kMissing: GPUs that are not
// there.
Result<RunPlan> PlanRun(const Project& project, const RunRequest& request,
                        const RunSetting& setting, const HostFacts& facts);

// Where a built-in job finds the project's runs.
inline constexpr const char* kRunsInside = "/envkit/runs";

// How many ranks PLAN starts; 1 for a command.
int WorldSize(const RunPlan& plan);

// "16g", "512M", "1.5GiB", "65536": bytes, in powers of 1024 as docker counts. nullopt: not a size.
std::optional<std::uint64_t> ParseSize(std::string_view text);

}  // namespace envkit
