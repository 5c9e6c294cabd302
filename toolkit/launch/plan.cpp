#include "launch/plan.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <system_error>

#include "launch/process.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using Environment = std::map<std::string, std::string>;

std::string Get(const Environment& env, const std::string& name, const std::string& fallback = "") {
  const auto it = env.find(name);
  return it == env.end() ? fallback : it->second;
}

// CUDA_VISIBLE_DEVICES hides devices: "0,2", UUIDs; "" and "-1" hide all.
// WSL has no node for each GPU, so a usable one there is at least one.
int VisibleGpus(const HostFacts& facts, const Environment& env) {
  const int present = std::max(1, static_cast<int>(facts.device_nodes.size()));
  const auto it = env.find("CUDA_VISIBLE_DEVICES");
  if (it == env.end()) return present;
  const std::string& list = it->second;
  if (list.empty() || list.front() == '-') return 0;
  return std::min<int>(present, 1 + static_cast<int>(std::count(list.begin(), list.end(), ',')));
}

struct Workers {
  int processes = 1;
  bool on_gpus = false;
  std::string note;
};

Result<Workers> CountWorkers(const LaunchOptions& options, const HostFacts& facts,
                             const Environment& env) {
  const GpuVerdict verdict = JudgeGpus(facts);
  Workers workers;
  const int gpus = verdict.state == GpuState::kUsable ? VisibleGpus(facts, env) : 0;
  workers.on_gpus = gpus > 0;
  if (options.processes) {
    workers.processes = *options.processes;
    return workers;
  }
  if (verdict.state == GpuState::kUnusable) return Missing(verdict.why, verdict.next);
  if (gpus > 0) {
    workers.processes = gpus;
    return workers;
  }
  workers.processes = std::max(facts.numa_nodes, std::min(facts.cpus, 2));
  workers.note = fmt::format(
      "{}: {} {} on CPU",
      verdict.state == GpuState::kUsable ? "CUDA_VISIBLE_DEVICES hides every GPU" : "no GPU found",
      workers.processes, workers.processes == 1 ? "rank" : "ranks");
  return workers;
}

Result<std::string> RequireProgram(const std::string& name, const Environment& env) {
  const FoundProgram found = FindProgram(name, Get(env, "PATH"));
  if (found.error == 0) return found.path;
  if (found.error == EACCES) {
    return Usage(fmt::format("{} is not an executable file", found.path),
                 fmt::format("Make it one (chmod +x {}), or name a .py script.", found.path));
  }
  if (name.find('/') != std::string::npos) {
    return Usage(fmt::format("there is no program {}", name), "Check the path.");
  }
  std::error_code ignored;
  return Usage(fmt::format("there is no program {} on PATH", name),
               fs::exists(name, ignored)
                   ? fmt::format("For the file in this directory, say ./{}", name)
                   : "Check the name, or give the path to it.");
}

Result<void> PlanProgram(const LaunchOptions& options, const Environment& env, LaunchPlan& plan) {
  if (options.program.empty()) {
    return Usage("nothing to launch", "Name a script or a program: envkit launch train.py");
  }
  const std::string& first = options.program.front();
  const bool script = !options.no_python && !options.module && first.ends_with(".py");
  if (!script && !options.module) {
    ENVKIT_TRY(plan.program, RequireProgram(first, env));
    plan.argv = options.program;
    return {};
  }
  if (script && access(first.c_str(), R_OK) != 0) {
    std::error_code ignored;
    return Usage(fmt::format("cannot read the script {}: {}", first,
                             errno == ENOENT ? "no such file" : "permission denied"),
                 fmt::format("Looked for it from {}", fs::current_path(ignored).string()));
  }
  const std::string python = Get(env, "PYTHON", "python3");
  const FoundProgram found = FindProgram(python, Get(env, "PATH"));
  if (found.error != 0) {
    return Missing(fmt::format("{} needs Python, and {} cannot be run", first, python),
                   "Install python3 or name an interpreter in PYTHON; for a program that is not "
                   "Python, say --no-python.");
  }
  plan.program = found.path;
  plan.argv = {python, "-u"};
  if (options.module) plan.argv.emplace_back("-m");
  plan.argv.insert(plan.argv.end(), options.program.begin(), options.program.end());
  return {};
}

// A directory of our own where none was given, so that the logs of a failure are never missing.
fs::path DefaultRunDirectory(std::chrono::system_clock::time_point now) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  char stamp[32];
  std::strftime(stamp, sizeof stamp, "%Y%m%dT%H%M%SZ", &utc);
  std::error_code error;
  const fs::path here = fs::current_path(error);
  const fs::path base = error || access(here.c_str(), W_OK) != 0
                            ? fs::temp_directory_path(error) / fmt::format("envkit-{}", getuid())
                            : here / ".envkit/runs";
  fs::path directory = base / fmt::format("{}-launch", stamp);
  for (int k = 2; fs::exists(directory, error); ++k) {
    directory = base / fmt::format("{}-launch-{}", stamp, k);
  }
  return directory;
}

}  // namespace

Result<LaunchPlan> PlanLaunch(const LaunchOptions& options, const HostFacts& facts,
                              const Environment& env, std::chrono::system_clock::time_point now) {
  LaunchPlan plan;
  plan.quiet = options.quiet;
  plan.master_addr = options.master_addr;
  plan.master_port = options.master_port;
  if (options.grace) {
    plan.grace = std::chrono::milliseconds(static_cast<long long>(*options.grace * 1000));
    plan.failure_grace = plan.grace;
  }
  ENVKIT_CHECK(PlanProgram(options, env, plan));
  ENVKIT_TRY(const Workers workers, CountWorkers(options, facts, env));
  plan.on_gpus = workers.on_gpus;
  plan.note = workers.note;

  const std::string run_directory = Get(env, "ENVKIT_RUN_DIR");
  if (!options.log_dir.empty()) {
    plan.log_dir = fs::absolute(options.log_dir).lexically_normal();
  } else if (!run_directory.empty()) {
    plan.log_dir = fs::path(run_directory) / "log";
  } else {
    plan.new_run_directory = DefaultRunDirectory(now);
    plan.log_dir = plan.new_run_directory / "log";
    // So that all ranks agree on one record.
    plan.env.emplace_back("ENVKIT_RUN_DIR", plan.new_run_directory.string());
  }

  const std::string world = std::to_string(workers.processes);
  const auto add = [&](const char* name, std::string value) {
    plan.env.emplace_back(name, std::move(value));
  };
  add("WORLD_SIZE", world);
  add("LOCAL_WORLD_SIZE", world);
  add("GROUP_RANK", "0");
  add("GROUP_WORLD_SIZE", "1");
  add("ROLE_NAME", "default");
  add("ROLE_WORLD_SIZE", world);
  add("MASTER_ADDR", plan.master_addr);
  add("TORCHELASTIC_RESTART_COUNT", "0");
  add("TORCHELASTIC_MAX_RESTARTS", "0");
  add("TORCHELASTIC_RUN_ID", fmt::format("envkit-{}", getpid()));
  // "True" would make the ranks wait for a TCPStore that only torchrun's agent serves.
  add("TORCHELASTIC_USE_AGENT_STORE", "False");
  if (!env.contains("TORCH_NCCL_ASYNC_ERROR_HANDLING")) {
    add("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1");
  }
  if (!env.contains("OMP_NUM_THREADS")) {
    add("OMP_NUM_THREADS", std::to_string(std::max(1, facts.cpus / workers.processes)));
  }
  for (int rank = 0; rank < workers.processes; ++rank) {
    const std::string number = std::to_string(rank);
    RankPlan one;
    one.rank = rank;
    one.log_dir = plan.log_dir / "attempt_0" / number;
    one.env = {{"RANK", number},
               {"LOCAL_RANK", number},
               {"ROLE_RANK", number},
               {"TORCHELASTIC_ERROR_FILE", (one.log_dir / "error.json").string()}};
    plan.ranks.push_back(std::move(one));
  }
  return plan;
}

std::vector<std::string> MergedEnvironment(const Environment& env,
                                           const std::vector<Variables>& overlays) {
  Environment merged = env;
  for (const auto& overlay : overlays) {
    for (const auto& [name, value] : overlay) merged[name] = value;
  }
  std::vector<std::string> list;
  list.reserve(merged.size());
  for (const auto& [name, value] : merged) list.push_back(fmt::format("{}={}", name, value));
  return list;
}

Environment OwnEnvironment() {
  Environment env;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const std::size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    env.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return env;
}

}  // namespace envkit
