// What a launch will do, decided completely before anything starts: plain data that tests compare
// and that the supervisor executes.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "host/facts.h"

namespace envkit {

struct LaunchOptions {
  std::optional<int> processes;  // nullopt: one per GPU, or as many as make sense on this CPU
  std::string master_addr = "127.0.0.1";
  int master_port = 0;  // 0: a free one
  std::filesystem::path log_dir;
  std::optional<double> grace;  // seconds
  bool no_python = false;
  bool module = false;
  bool init = false;
  bool quiet = false;
  std::vector<std::string> program;  // everything from the first positional on
};

using Variables = std::vector<std::pair<std::string, std::string>>;

struct RankPlan {
  int rank = 0;
  Variables env;                  // what differs between ranks
  std::filesystem::path log_dir;  // LOG_DIR/attempt_0/RANK
};

struct LaunchPlan {
  std::string program;            // the file that execve gets
  std::vector<std::string> argv;  // with the interpreter
  Variables env;                  // added to our own, the same for every rank
  std::vector<RankPlan> ranks;
  std::filesystem::path log_dir;
  std::filesystem::path new_run_directory;  // one that must not exist yet; empty: LOG_DIR was given
  std::string master_addr;
  int master_port = 0;  // 0: the supervisor chooses when it starts the ranks
  // From a stop that was asked for to SIGKILL. 25 s: enough for a checkpoint, and over before the
  // 30 s of Kubernetes and Slurm, so that the report and the outcome are still written.
  std::chrono::milliseconds grace{25'000};
  // The same for the peers of a rank that failed: they wait for it in a collective and can finish
  // nothing, so this is short.
  std::chrono::milliseconds failure_grace{5'000};
  bool on_gpus = false;
  bool quiet = false;
  std::string note;  // a choice that the user should know of; empty: none
};

// ENV is the environment; NOW names the default log directory. Looks at files, changes nothing.
Result<LaunchPlan> PlanLaunch(const LaunchOptions& options, const HostFacts& facts,
                              const std::map<std::string, std::string>& env,
                              std::chrono::system_clock::time_point now);

// "NAME=value" of our own environment, overlaid with each of OVERLAYS in turn.
std::vector<std::string> MergedEnvironment(const std::map<std::string, std::string>& env,
                                           const std::vector<Variables>& overlays);
std::map<std::string, std::string> OwnEnvironment();

}  // namespace envkit
