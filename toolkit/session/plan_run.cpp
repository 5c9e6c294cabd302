#include "session/plan_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "base/text.h"
#include "session/services.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kGiB = 1ull << 30;
constexpr const char* kLocks = "/run/envkit-locks";
constexpr const char* kLauncher = "/opt/envkit/bin/envkit-launch";
constexpr const char* kHome = "/home/envkit";

std::string GiB(std::uint64_t bytes) {
  std::string number = fmt::format("{:.1f}", static_cast<double>(bytes) / double{kGiB});
  if (number.ends_with(".0")) number.resize(number.size() - 2);
  return number + " GiB";
}

// Where a value comes from, for people: the flag, or "envkit.toml:18", or "default".
std::string Origin(const Project& project, const std::string& key) {
  const auto it = project.origin.find(key);
  return it == project.origin.end() ? "default" : it->second;
}

struct Ranks {
  int count = 1;
  std::string why;
};

Result<std::vector<std::string>> ChooseGpus(const std::string& wanted, const HostFacts& facts) {
  std::vector<std::string> devices;
  if (wanted == "all") return devices;
  for (std::size_t at = 0; at <= wanted.size();) {
    const std::size_t end = std::min(wanted.find(',', at), wanted.size());
    std::string device = wanted.substr(at, end - at);
    at = end + 1;
    int index = -1;
    const auto [rest, error] = std::from_chars(device.data(), device.data() + device.size(), index);
    if (error == std::errc() && rest == device.data() + device.size() &&
        std::find(facts.device_nodes.begin(), facts.device_nodes.end(), index) ==
            facts.device_nodes.end()) {
      return Missing(fmt::format("--gpus {}: this machine has no GPU {}", wanted, index),
                     fmt::format("It has: {}", fmt::join(facts.device_nodes, ", ")));
    }
    if (device.empty()) return Usage(fmt::format("--gpus {}: an empty entry", wanted));
    devices.push_back(std::move(device));
  }
  return devices;
}

// A launcher of its own: ours starts it once.
bool StartsRanks(const std::vector<std::string>& command) {
  if (command.empty()) return false;
  const std::string program = fs::path(command.front()).filename().string();
  return program == "torchrun" ||
         (program == "accelerate" && command.size() > 1 && command[1] == "launch");
}

Result<Ranks> CountRanks(const std::string& wanted, const std::string& origin,
                         const RunSetting& setting, const std::vector<std::string>& gpus,
                         const HostFacts& facts, const std::vector<std::string>& command) {
  if (wanted != "auto") {
    Ranks ranks;
    const auto [end, error] =
        std::from_chars(wanted.data(), wanted.data() + wanted.size(), ranks.count);
    if (error != std::errc() || end != wanted.data() + wanted.size() || ranks.count < 1 ||
        ranks.count > 9999) {
      return Usage(fmt::format("--processes: '{}' is neither a number of ranks nor auto", wanted));
    }
    ranks.why = origin;
    return ranks;
  }
  if (StartsRanks(command)) {
    return Ranks{1, fmt::format("auto: {} starts the ranks itself", command.front())};
  }
  if (setting.variant == "cuda") {
    const std::size_t count = gpus.empty() ? facts.device_nodes.size() : gpus.size();
    if (count > 0) return Ranks{static_cast<int>(count), "auto: one per GPU"};
  }
  return Ranks{std::max(facts.numa_nodes, std::min(facts.cpus, 2)),
               fmt::format("auto: one per NUMA node ({}), at least 2 where there are 2 cores ({})",
                           facts.numa_nodes, facts.cpus)};
}

fs::path HostPath(const Project& project, const std::string& text) {
  fs::path path = text;
  if (text == "~" || text.starts_with("~/")) {
    const char* home = std::getenv("HOME");
    if (home != nullptr) path = fs::path(home) / text.substr(std::min<std::size_t>(2, text.size()));
  }
  path = (path.is_relative() ? project.root / path : path).lexically_normal();
  return path.has_filename() ? path : path.parent_path();
}

// Where MOUNTS show PATH inside; empty where they do not.
std::string PathInside(const std::vector<Mount>& mounts, const fs::path& path) {
  for (const Mount& mount : mounts) {
    const fs::path relative = path.lexically_relative(mount.host);
    if (mount.read_only || relative.empty() || *relative.begin() == "..") continue;
    return (fs::path(mount.container) / relative).lexically_normal().string();
  }
  return "";
}

Result<std::uint64_t> ChooseShm(const std::string& wanted, const std::string& origin, int ranks,
                                const HostFacts& facts, RunPlan& plan) {
  if (wanted != "auto") {
    const auto bytes = ParseSize(wanted);
    if (!bytes || *bytes == 0) {
      return Usage(fmt::format("--shm: '{}' is not a size", wanted), "Say it as: --shm 16g");
    }
    plan.reasons.push_back({"--shm-size " + wanted, origin});
    return *bytes;
  }
  // NCCL and data loaders put their buffers there; memory is taken only as it is written.
  std::uint64_t bytes = static_cast<std::uint64_t>(ranks) * 4 * kGiB;
  std::string why = fmt::format("auto: {} {} × 4 GiB", ranks, ranks == 1 ? "rank" : "ranks");
  if (facts.memory_bytes && bytes > *facts.memory_bytes / 2) {
    bytes = *facts.memory_bytes / 2 / (1 << 20) * (1 << 20);
    why += fmt::format(", at most half of the memory ({})", GiB(*facts.memory_bytes));
  }
  plan.reasons.push_back(
      {"--shm-size " + GiB(bytes), why + fmt::format(" ([run] shm, {})", origin)});
  return bytes;
}

// What built-in jobs see besides what every command sees: their own directory, the user's name, the
// project's runs.
void AddSession(const Project& project, const RunRequest& request, RunPlan& plan) {
  plan.mounts.push_back({request.session, kSessionInside, false});
  plan.mounts.push_back({request.session / "passwd", "/etc/passwd", true});
  plan.mounts.push_back({request.session / "group", "/etc/group", true});
  plan.mounts.push_back({project.root / ".envkit" / "runs", kRunsInside, true});
  if (!request.home.empty()) plan.mounts.push_back({request.home, kHome, false});
}

void SetEnvironment(const Project& project, const Job* job, const RunSetting& setting,
                    RunPlan& plan) {
  plan.env = setting.image.env;
  plan.env["PATH"] = "/opt/envkit/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  plan.env["LANG"] = "C.UTF-8";
  plan.env["HOME"] = kHome;
  // How programs know that they are in one (systemd's convention); docker leaves a file instead.
  if (plan.engine == "oci") plan.env["container"] = "oci";
  // Without a name getpass.getuser fails, which torch.compile calls.
  plan.env["USER"] = plan.env["LOGNAME"] = setting.user.empty() ? "envkit" : setting.user;
  // Accelerate takes several ranks without GPUs for single ones otherwise.
  if (!plan.gpus) plan.env["ACCELERATE_USE_CPU"] = "true";
  if (plan.terminal) {
    const char* term = std::getenv("TERM");
    plan.env["TERM"] = term == nullptr ? "xterm" : term;
  }
  for (const auto& [name, value] : project.run.env) plan.env[name] = value;
  if (job == nullptr) return;
  // The launcher reads the ranks' output through pipes; programs still may draw for a terminal.
  plan.env["ENVKIT_TTY"] = setting.output_tty ? "1" : "0";
  if (setting.output_tty) plan.env["COLUMNS"] = std::to_string(setting.columns);
  plan.env["ENVKIT_JOB"] = job->name;
  plan.env["ENVKIT_RUN_DIR"] = PathInside(plan.mounts, setting.record);
  if (plan.gpus && !setting.locks.empty()) plan.env["ENVKIT_LOCK_DIR"] = kLocks;
  for (const auto& [name, value] : job->env) plan.env[name] = value;
}

}  // namespace

Result<void> CheckNamedGpus(const RunRequest& request, const RunSetting& setting,
                            const HostFacts& facts) {
  if (request.gpus.empty() || request.gpus == "all" || request.gpus == "none") return {};
  if (facts.device_nodes.empty()) {
    return Missing(fmt::format("--gpus {}: this machine has no GPU", request.gpus),
                   "Leave --gpus out, or say --gpus none.");
  }
  ENVKIT_CHECK(ChooseGpus(request.gpus, facts));
  if (setting.variant == "cuda") return {};
  return Usage(fmt::format("--gpus {}: the {} image has no CUDA ({})", request.gpus,
                           setting.variant, setting.variant_why),
               "Leave --gpus out, or say --variant cuda.");
}

Result<const Job*> FindJob(const Project& project, const std::string& name) {
  const auto it = project.jobs.find(name);
  if (it != project.jobs.end()) return &it->second;
  std::vector<std::string> names;
  for (const auto& [known, job] : project.jobs) names.push_back(known);
  std::string next;
  if (const auto near = ClosestMatch(name, names)) next = "did you mean " + *near + "?\n";
  if (names.empty()) {
    next += "Describe one:  [jobs.train] command = [\"envkit-train\"]";
  } else {
    next += fmt::format(
        "Jobs: {}; in every project: jupyter, tensorboard, shell; any command: envkit run -- CMD…",
        fmt::join(names, ", "));
  }
  return Usage(fmt::format("{} has no job \"{}\"", project.file.filename().string(), name), next);
}

Result<RunPlan> PlanRun(const Project& project, const RunRequest& request,
                        const RunSetting& setting, const HostFacts& facts) {
  const Job* job = nullptr;
  if (!request.job.empty()) {
    ENVKIT_TRY(job, FindJob(project, request.job));
  }
  RunPlan plan;
  plan.job = request.job.empty() ? request.builtin : request.job;
  plan.engine = setting.engine;
  plan.image = setting.image;
  plan.uid = setting.uid;
  plan.gid = setting.gid;
  plan.hostname = facts.hostname;
  const bool interactive = request.builtin.empty() || request.builtin == "shell";
  plan.terminal = job == nullptr && interactive && setting.input_tty && setting.output_tty;
  if (request.home.empty()) plan.scratch = {kHome};
  plan.reasons.push_back({"image " + setting.image.name, setting.variant_why});

  const std::string gpus = request.gpus.empty() ? project.run.gpus : request.gpus;
  plan.gpus = setting.variant == "cuda" && gpus != "none" && !facts.device_nodes.empty();
  if (plan.gpus) {
    ENVKIT_TRY(plan.gpu_devices, ChooseGpus(gpus, facts));
    plan.reasons.push_back(
        {"--gpus " + gpus, request.gpus.empty() ? Origin(project, "run.gpus") : "--gpus"});
  }
  Ranks ranks;
  if (job != nullptr) {
    const std::string origin = request.processes.empty()
                                   ? Origin(project, "jobs." + job->name + ".processes")
                                   : "--processes";
    ENVKIT_TRY(ranks, CountRanks(request.processes.empty() ? job->processes : request.processes,
                                 origin, setting, plan.gpu_devices, facts, job->command));
    plan.reasons.push_back({fmt::format("--processes {}", ranks.count), ranks.why});
    plan.argv = {kLauncher, "--quiet", "--processes", std::to_string(ranks.count)};
    if (request.share) plan.argv.emplace_back("--share");
    plan.argv.emplace_back("--");
    plan.argv.insert(plan.argv.end(), job->command.begin(), job->command.end());
  } else {
    plan.argv = {kLauncher, "--init", "--"};
  }
  plan.argv.insert(plan.argv.end(), request.arguments.begin(), request.arguments.end());

  for (const MountSetting& mount : project.run.mounts) {
    Mount planned{HostPath(project, mount.host), mount.container, mount.read_only};
    std::error_code error;
    if (!fs::exists(planned.host, error)) {
      return Usage(fmt::format("[run] mounts: {} does not exist", planned.host.string()),
                   fmt::format("Make it, or correct {}", Origin(project, "run.mounts")));
    }
    plan.mounts.push_back(std::move(planned));
  }
  for (const auto& [name, data] : project.data) {
    const auto it = setting.data.find(name);
    if (it != setting.data.end()) plan.mounts.push_back({it->second, data.mount, true});
  }
  const bool workspace = std::any_of(plan.mounts.begin(), plan.mounts.end(),
                                     [](const Mount& m) { return m.container == "/workspace"; });
  plan.workdir = workspace ? "/workspace" : "/";
  if (!setting.record.empty() && PathInside(plan.mounts, setting.record).empty()) {
    plan.mounts.push_back({setting.record.parent_path(), "/envkit/runs", false});
  }
  if (!request.builtin.empty()) AddSession(project, request, plan);
  // The launcher inside leases its GPUs where those of other containers and of the host do.
  if ((job != nullptr || !request.builtin.empty()) && plan.gpus && !setting.locks.empty()) {
    plan.mounts.push_back({setting.locks, kLocks, false});
  }
  ENVKIT_TRY(plan.shm_bytes, ChooseShm(request.shm.empty() ? project.run.shm : request.shm,
                                       request.shm.empty() ? Origin(project, "run.shm") : "--shm",
                                       ranks.count, facts, plan));
  if (!request.memory.empty()) {
    plan.memory_bytes = ParseSize(request.memory);
    if (!plan.memory_bytes || *plan.memory_bytes == 0) {
      return Usage(fmt::format("--memory: '{}' is not a size", request.memory),
                   "Say it as: --memory 16g");
    }
    plan.reasons.push_back({"--memory " + request.memory, "--memory"});
  }
  plan.unlimited_memlock = facts.may_raise_limits;
  if (!plan.unlimited_memlock) {
    plan.reasons.push_back({"no --ulimit memlock=-1",
                            "CAP_SYS_RESOURCE is missing on this machine: locked memory keeps its "
                            "limit, which InfiniBand may find too small"});
  }
  SetEnvironment(project, job, setting, plan);
  if (!request.builtin.empty()) {
    plan.env["ENVKIT_JOB"] = request.builtin;
    plan.env["SHELL"] = "/bin/bash";
  }
  return plan;
}

int WorldSize(const RunPlan& plan) {
  for (std::size_t i = 0; i + 1 < plan.argv.size() && plan.argv[i] != "--"; ++i) {
    if (plan.argv[i] == "--processes") return std::atoi(plan.argv[i + 1].c_str());
  }
  return 1;
}

std::optional<std::uint64_t> ParseSize(std::string_view text) {
  double number = 0;
  const auto [at, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || !std::isfinite(number) || number < 0) return std::nullopt;
  std::string unit(at, text.data() + text.size());
  std::transform(unit.begin(), unit.end(), unit.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (unit.ends_with("ib")) {
    unit.resize(unit.size() - 2);
  } else if (unit.size() == 2 && unit.ends_with('b')) {
    unit.resize(1);
  }
  const std::string_view letters = "bkmgt";
  if (unit.empty()) unit = "b";
  const std::size_t power = letters.find(unit);
  if (unit.size() != 1 || power == std::string_view::npos) return std::nullopt;
  number *= std::pow(1024.0, static_cast<double>(power));
  if (number > 1e18) return std::nullopt;
  return static_cast<std::uint64_t>(number);
}

}  // namespace envkit
