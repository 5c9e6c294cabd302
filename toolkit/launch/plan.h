// What a launch will do, decided completely before anything starts: plain data that tests compare
// and that the supervisor executes.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "host/facts.h"
#include "launch/gpus.h"
#include "launch/lease.h"
#include "launch/settings.h"

namespace envkit {

struct LaunchOptions {
  Personality personality = Personality::kEnvkit;
  FlagValues flags;  // all but the following, by setting: see settings.h
  bool init = false;
  bool explain = false;
  bool quiet = false;
  bool save_config = false;
  std::vector<std::string> program;  // everything from the first positional on
};

struct RankPlan {
  int local_rank = 0;
  std::string gpu;               // for people: "2"; empty: none of its own
  Variables env;                 // beyond what every rank gets
  std::vector<int> cpus;         // it is bound to these; empty: to none
  bool shown[2] = {true, true};  // stdout and stderr go to the console too
};

// How the launchers of several nodes find each other; see nodes.h.
struct NodePlan {
  int nodes = 1;
  std::optional<int> rank;  // nullopt: node 0 gives it
  std::string host;         // where node 0 listens
  int port = 0;
  std::string local;  // interface or address of ours to use; empty: any
  std::string run_id;
  std::chrono::milliseconds join_timeout{600'000};
  std::chrono::milliseconds lost_after{10'000};
};

// Where the ranks of this node stand among all, known when every node has come.
struct Placement {
  int attempt = 0;
  int node_rank = 0;
  int first_rank = 0;  // of this node
  int world_size = 1;
  std::string master_addr;
  int master_port = 0;
};

struct Explained {
  std::string name, value, source;
};

struct LaunchPlan {
  Personality personality = Personality::kEnvkit;
  std::string program;            // the file that execve gets
  std::vector<std::string> argv;  // with the interpreter
  Variables env;                  // added to our own, the same for every rank
  std::vector<RankPlan> ranks;
  NodePlan nodes;
  std::string role = "default";
  int max_restarts = 0;
  std::filesystem::path log_dir;
  std::filesystem::path new_run_directory;  // one that must not exist yet; empty: LOG_DIR was given
  std::string master_addr;
  int master_port = 0;  // at which the ranks meet; 0: a free one
  std::string prefix;   // of the ranks' lines; empty: "[RANK] "
  // From a stop that was asked for to SIGKILL. 25 s: enough for a checkpoint, and over before the
  // 30 s of Kubernetes and Slurm, so that the report and the outcome are still written.
  std::chrono::milliseconds grace{25'000};
  // The same for the peers of a rank that failed: they wait for it in a collective and can finish
  // nothing, so this is short.
  std::chrono::milliseconds failure_grace{5'000};
  std::chrono::milliseconds hang_timeout{0};  // without any output; 0: never
  std::vector<VisibleGpu> gpus;               // that the ranks have; empty: they run on CPUs
  LeasePlan lease;
  bool virtual_local_rank = false;
  bool own_error_handling = true;  // TORCH_NCCL_ASYNC_ERROR_HANDLING is ours to set
  bool own_records = false;        // where flight recorders write is ours to set
  bool quiet = false;
  std::vector<std::string> notes;  // choices that the user should know of
  std::vector<Explained> explained;
};

// ENV is the environment; NOW names the default log directory. Looks at files, changes nothing.
Result<LaunchPlan> PlanLaunch(const LaunchOptions& options, const HostFacts& facts,
                              const std::map<std::string, std::string>& env,
                              std::chrono::system_clock::time_point now);

// What the rank INDEX of PLAN's finds in its environment beyond ours, torchrun's variables
// included.
Variables RankVariables(const LaunchPlan& plan, const Placement& place, std::size_t index);
std::filesystem::path RankLogs(const LaunchPlan& plan, const Placement& place, std::size_t index);

// "name  value  source", aligned.
std::string ExplainText(const LaunchPlan& plan);

// "NAME=value" of our own environment, overlaid with each of OVERLAYS in turn.
std::vector<std::string> MergedEnvironment(const std::map<std::string, std::string>& env,
                                           const std::vector<Variables>& overlays);
std::map<std::string, std::string> OwnEnvironment();

}  // namespace envkit
