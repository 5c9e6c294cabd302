#include "launch/plan.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <ctime>
#include <random>
#include <system_error>

#include "launch/gpus.h"
#include "launch/plan_parts.h"
#include "launch/process.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using Environment = std::map<std::string, std::string>;

std::string Get(const Environment& env, const std::string& name, const std::string& fallback = "") {
  const auto it = env.find(name);
  return it == env.end() ? fallback : it->second;
}

struct Workers {
  int processes = 1;  // on this node
  std::vector<VisibleGpu> gpus;
};

std::string GpuNumbers(std::string ids) {
  std::erase(ids, ' ');
  return ids == "all" ? "" : ids;
}

Result<int> ProcessesPerNode(const Setting& setting, const Settings& settings, int nodes) {
  const int total = settings.Find("num_processes") == &setting ? nodes : 1;
  int number = 0;
  const char* end = setting.value.data() + setting.value.size();
  const auto [at, error] = std::from_chars(setting.value.data(), end, number);
  if (error != std::errc() || at != end || number < 1 || number > 4096) {
    return Usage(fmt::format("{}: '{}' is neither a number of ranks nor auto", setting.source,
                             setting.value),
                 "For example: --processes 4");
  }
  if (number % total != 0) {
    return Usage(fmt::format("{} ranks cannot be shared out evenly to {} nodes ({})", number, nodes,
                             setting.source),
                 "Or say for each node how many it starts: --nproc-per-node N");
  }
  return number / total;
}

Result<Workers> CountWorkers(const Settings& settings, Personality personality,
                             const HostFacts& facts, const Environment& env, int nodes,
                             LaunchPlan& plan) {
  const GpuVerdict verdict = JudgeGpus(facts);
  Workers workers;
  const bool cpu_only = settings.On("cpu");
  if (cpu_only) {
    plan.env.emplace_back("CUDA_VISIBLE_DEVICES", "");
  } else {
    std::optional<std::string> visible;
    if (const auto it = env.find("CUDA_VISIBLE_DEVICES"); it != env.end()) visible = it->second;
    if (const std::string ids = GpuNumbers(settings.Get("gpu_ids", "all")); !ids.empty()) {
      visible = ids;
      plan.env.emplace_back("CUDA_VISIBLE_DEVICES", ids);
    }
    if (verdict.state == GpuState::kUsable) {
      workers.gpus = VisibleGpus(facts, visible ? &*visible : nullptr);
    }
  }
  const int gpus = static_cast<int>(workers.gpus.size());
  const Setting* asked = settings.Find("nproc_per_node");
  if (asked == nullptr) asked = settings.Find("num_processes");
  std::string kind = asked == nullptr ? "auto" : asked->value;
  const std::string source = asked == nullptr ? "default" : asked->source;
  if (asked == nullptr && personality == Personality::kTorchrun) kind = "1";
  if (asked == nullptr && personality == Personality::kAccelerate && gpus == 0) kind = "1";
  const auto explain = [&](std::string why) {
    plan.explained.push_back(
        {"ranks on this node", std::to_string(workers.processes), std::move(why)});
  };
  if (kind == "gpu" && gpus == 0) {
    return Missing(fmt::format("{}: there is no GPU to be used", source),
                   verdict.state == GpuState::kUnusable ? verdict.why : "");
  }
  if (kind == "cpu") {
    workers.processes = facts.cpus;
  } else if (kind == "auto" || kind == "gpu") {
    if (verdict.state == GpuState::kUnusable && !cpu_only) {
      return Missing(verdict.why, verdict.next);
    }
    workers.processes = gpus > 0 ? gpus : std::max(facts.numa_nodes, std::min(facts.cpus, 2));
    if (kind == "auto" && gpus == 0 && personality == Personality::kTorchrun) {
      workers.processes = facts.cpus;
    }
    if (gpus == 0 && !cpu_only) {
      plan.notes.push_back(
          fmt::format("{}: {} {} on CPU",
                      verdict.state == GpuState::kUsable ? "CUDA_VISIBLE_DEVICES hides every GPU"
                                                         : "no GPU found",
                      workers.processes, workers.processes == 1 ? "rank" : "ranks"));
    }
    explain(gpus > 0 ? fmt::format("{}: one for each GPU", source)
                     : fmt::format("{}: NUMA nodes, and at least 2", source));
    return workers;
  } else if (asked != nullptr) {
    if (asked->value == "xpu") return Usage("XPUs are not supported", "GPUs are NVIDIA's here.");
    ENVKIT_TRY(workers.processes, ProcessesPerNode(*asked, settings, nodes));
  }
  explain(source);
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

Result<void> PlanProgram(const LaunchOptions& options, const Settings& settings,
                         const Environment& env, LaunchPlan& plan) {
  if (options.program.empty()) {
    return Usage("nothing to launch", "Name a script or a program: envkit launch train.py");
  }
  const std::string& first = options.program.front();
  const bool module = settings.On("module");
  const bool no_python = settings.On("no_python") && !settings.On("run_path");
  if (module && no_python) {
    return Usage("--module and --no-python exclude each other", "Name one of them.");
  }
  // What is no .py file is a program here; torchrun and accelerate run everything in Python.
  const bool script = !module && !no_python &&
                      (first.ends_with(".py") || options.personality != Personality::kEnvkit);
  if (!script && !module) {
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
  const std::string python = Get(env, "PYTHON_EXEC", Get(env, "PYTHON", "python3"));
  const FoundProgram found = FindProgram(python, Get(env, "PATH"));
  if (found.error != 0) {
    return Missing(fmt::format("{} needs Python, and {} cannot be run", first, python),
                   "Install python3 or name an interpreter in PYTHON; for a program that is not "
                   "Python, say --no-python.");
  }
  plan.program = found.path;
  plan.argv = {python, "-u"};
  if (module) plan.argv.emplace_back("-m");
  plan.argv.insert(plan.argv.end(), options.program.begin(), options.program.end());
  return {};
}

// Whether DIRECTORY is there and may be written to, or could be made. Root's `.envkit` in the
// project of someone else, say of a container that ran without --user, may not.
bool MayBeMade(const fs::path& directory) {
  std::error_code error;
  fs::path there = directory;
  while (!fs::exists(there, error) && there.has_relative_path()) there = there.parent_path();
  return access(there.c_str(), W_OK | X_OK) == 0;
}

// A directory of our own where none was given, so that the logs of a failure are never missing.
fs::path DefaultRunDirectory(std::chrono::system_clock::time_point now) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  char stamp[32];
  std::strftime(stamp, sizeof stamp, "%Y%m%dT%H%M%SZ", &utc);
  std::error_code error;
  fs::path base = fs::current_path(error) / ".envkit/runs";
  if (error || !MayBeMade(base)) {
    base = fs::temp_directory_path(error) / fmt::format("envkit-{}", getuid());
  }
  fs::path directory = base / fmt::format("{}-launch", stamp);
  for (int k = 2; fs::exists(directory, error); ++k) {
    directory = base / fmt::format("{}-launch-{}", stamp, k);
  }
  return directory;
}

void PlanLease(const Settings& settings, const Environment& env, const std::string& program,
               LaunchPlan& plan) {
  // A rank that launches something itself has its GPUs already.
  if (plan.gpus.empty() || env.contains("ENVKIT_LEASED")) return;
  const auto named = env.find("ENVKIT_LOCK_DIR");
  plan.lease.directory = LeaseDirectory(named == env.end() ? nullptr : named->second.c_str());
  plan.lease.share = settings.On("share");
  for (const VisibleGpu& gpu : plan.gpus) {
    // Several MIG devices of one GPU are several; a number means another GPU in each container.
    const bool part = gpu.name.starts_with("MIG-");
    plan.lease.gpus.emplace_back(part                ? gpu.name
                                 : !gpu.pci.empty()  ? gpu.pci
                                 : !gpu.uuid.empty() ? gpu.uuid
                                                     : gpu.name,
                                 gpu.name);
  }
  // Not its arguments: the file outlives the job, and everybody may read it.
  plan.lease.holder = plan.argv.front();
  if (program != plan.argv.front()) plan.lease.holder += " " + program;
  plan.env.emplace_back("ENVKIT_LEASED", "1");
}

Result<void> PlanRanks(const Settings& settings, const HostFacts& facts, const Workers& workers,
                       const Environment& env, LaunchPlan& plan) {
  const std::string mode = settings.Get("numa_binding");
  const auto cpus = PlanBinding(mode, workers.processes, workers.gpus, AllowedCpus());
  plan.virtual_local_rank = settings.On("virtual_local_rank");
  for (int i = 0; i < workers.processes; ++i) {
    RankPlan rank;
    rank.local_rank = i;
    rank.cpus = cpus[static_cast<std::size_t>(i)];
    if (!workers.gpus.empty()) {
      const VisibleGpu& gpu = workers.gpus[static_cast<std::size_t>(i) % workers.gpus.size()];
      rank.gpu = gpu.uuid.empty() || gpu.uuid == gpu.name
                     ? gpu.name
                     : fmt::format("{}, {}", gpu.name, gpu.uuid.substr(0, 12));
      if (plan.virtual_local_rank) rank.env.emplace_back("CUDA_VISIBLE_DEVICES", gpu.name);
    }
    plan.ranks.push_back(std::move(rank));
  }
  plan.gpus = workers.gpus;
  plan.gpus.resize(std::min(plan.gpus.size(), plan.ranks.size()));
  if (!plan.ranks.front().cpus.empty()) {
    plan.explained.push_back({"CPU binding", mode.empty() ? "node" : mode,
                              mode.empty() ? "default: several NUMA nodes" : "--numa-binding"});
  }
  const Setting* threads = settings.Find("num_cpu_threads_per_process");
  std::string number = std::to_string(std::max(1, facts.cpus / workers.processes));
  std::string source = "default: cores for each rank";
  if (threads != nullptr) {
    ENVKIT_CHECK(settings.Number("num_cpu_threads_per_process", 1, 1));
    number = threads->value;
    source = threads->source;
  } else if (env.contains("OMP_NUM_THREADS")) {
    plan.explained.push_back(
        {"OMP_NUM_THREADS", env.at("OMP_NUM_THREADS"), "environment OMP_NUM_THREADS"});
    return {};
  }
  plan.explained.push_back({"OMP_NUM_THREADS", number, source});
  plan.env.emplace_back("OMP_NUM_THREADS", number);
  return {};
}

// What the machine would make slow or break later, said while it is cheap.
void CheckMachine(const HostFacts& facts, LaunchPlan& plan) {
  constexpr std::uint64_t kSmall = std::uint64_t{64} << 20;
  if (facts.shm_bytes && *facts.shm_bytes <= kSmall && plan.ranks.size() > 1) {
    plan.notes.push_back(
        fmt::format("/dev/shm has only {} MB, which NCCL and data loaders soon fill: docker run "
                    "--shm-size 8g",
                    *facts.shm_bytes >> 20));
  }
  std::error_code error;
  rlimit limit{};
  if (fs::exists("/dev/infiniband", error) && getrlimit(RLIMIT_MEMLOCK, &limit) == 0 &&
      limit.rlim_cur < kSmall) {
    plan.notes.push_back(
        fmt::format("InfiniBand needs locked memory, and the limit is {} kB: ulimit -l unlimited",
                    limit.rlim_cur >> 10));
  }
}

std::string RandomName() {
  static constexpr char kLetters[] = "abcdefghijklmnopqrstuvwxyz0123456789_";
  std::random_device random;
  std::string name;
  for (int i = 0; i < 8; ++i) name += kLetters[random() % (sizeof kLetters - 1)];
  return name;
}

}  // namespace

Result<LaunchPlan> PlanLaunch(const LaunchOptions& options, const HostFacts& facts,
                              const Environment& env, std::chrono::system_clock::time_point now) {
  LaunchPlan plan;
  plan.quiet = options.quiet;
  plan.personality = options.personality;
  ENVKIT_TRY(const Settings settings,
             ReadSettings(options.flags, env, FindConfigs(options.personality, env), plan.notes));
  if (const Setting* grace = settings.Find("grace")) {
    ENVKIT_TRY(const double seconds, settings.Seconds("grace", 0));
    plan.grace = std::chrono::milliseconds(static_cast<long long>(seconds * 1000));
    plan.failure_grace = plan.grace;
    plan.explained.push_back({"grace", grace->value + " s", grace->source});
  }
  const std::string events = settings.Get("event_log_handler", "null");
  if (events != "null" && events != "console") {
    return Usage(fmt::format("event log handler {} is not supported", events),
                 "It would be a Python plugin, and this launcher has no Python in it.");
  }
  ENVKIT_CHECK(PlanProgram(options, settings, env, plan));
  ENVKIT_CHECK(PlanNodes(settings, plan));
  ENVKIT_TRY(const Workers workers,
             CountWorkers(settings, options.personality, facts, env, plan.nodes.nodes, plan));
  ENVKIT_CHECK(PlanRanks(settings, facts, workers, env, plan));
  PlanLease(settings, env, options.program.front(), plan);
  ENVKIT_CHECK(PlanConsole(settings, plan));
  CheckMachine(facts, plan);
  const bool alone = workers.processes == 1 && plan.nodes.nodes == 1;
  ENVKIT_TRY(
      const Variables accelerate,
      AccelerateVariables(settings, env, alone, options.personality == Personality::kAccelerate));
  plan.env.insert(plan.env.end(), accelerate.begin(), accelerate.end());
  ENVKIT_TRY(const double hang, settings.Seconds("hang_timeout", 0));
  plan.hang_timeout = std::chrono::milliseconds(static_cast<long long>(hang * 1000));
  plan.own_records = hang > 0 && !env.contains("TORCH_FR_DUMP_TEMP_FILE") &&
                     !env.contains("TORCH_NCCL_DEBUG_INFO_TEMP_FILE");
  if (hang > 0 && !env.contains("PYTHONFAULTHANDLER")) {
    plan.env.emplace_back("PYTHONFAULTHANDLER", "1");  // SIGABRT makes Python print its stacks
  }
  plan.role = settings.Get("role", "default");
  ENVKIT_TRY(plan.max_restarts, settings.Number("max_restarts", 0, 0));
  plan.own_error_handling = !env.contains("TORCH_NCCL_ASYNC_ERROR_HANDLING");
  plan.prefix =
      settings.Get("log_line_prefix_template", Get(env, "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"));
  if (plan.nodes.nodes == 1 && plan.nodes.run_id == "none") {
    plan.nodes.run_id = fmt::format("envkit-{}", getpid());
  }

  const std::string log_dir = settings.Get("log_dir");
  const std::string run_directory = Get(env, "ENVKIT_RUN_DIR");
  if (!log_dir.empty()) {
    plan.log_dir = fs::absolute(log_dir).lexically_normal();
    // As torchrun: several jobs may share the directory.
    if (options.personality != Personality::kEnvkit) {
      plan.log_dir /= plan.nodes.run_id + "_" + RandomName();
    }
  } else if (!run_directory.empty()) {
    plan.log_dir = fs::path(run_directory) / "log";
  } else {
    plan.new_run_directory = DefaultRunDirectory(now);
    plan.log_dir = plan.new_run_directory / "log";
    // So that all ranks agree on one record.
    plan.env.emplace_back("ENVKIT_RUN_DIR", plan.new_run_directory.string());
  }
  const std::pair<const char*, std::string> defaults[] = {
      {"nnodes", "1"},
      {"max_restarts", "0"},
      {"role", plan.role},
      {"grace", "25 s to stop, 5 s after a failure"},
      {"log_dir", plan.log_dir.string()},
      {"master_port", plan.nodes.nodes == 1 ? "a free one" : std::to_string(plan.nodes.port)}};
  for (const auto& [name, value] : defaults) {
    if (settings.Find(name) == nullptr) plan.explained.push_back({name, value, "default"});
  }
  for (const auto& [name, setting] : settings.all()) {
    if (name == "nproc_per_node" || name == "num_processes" || name == "grace" ||
        name == "deepspeed_fields" || name == "num_cpu_threads_per_process") {
      continue;
    }
    plan.explained.push_back({name, setting.value, setting.source});
  }
  return plan;
}

std::string ExplainText(const LaunchPlan& plan) {
  std::size_t name = 0;
  std::size_t value = 0;
  for (const Explained& one : plan.explained) {
    name = std::max(name, one.name.size());
    value = std::max(value, std::min<std::size_t>(one.value.size(), 24));
  }
  std::string text;
  for (const Explained& one : plan.explained) {
    text += fmt::format("{:<{}}  {:<{}}  {}\n", one.name, name, one.value, value, one.source);
  }
  return text;
}

}  // namespace envkit
