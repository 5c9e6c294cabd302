#include "launch/launch.h"

#include <fmt/format.h>
#include <net/if.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "launch/gpu_health.h"
#include "launch/gpus.h"
#include "launch/guard.h"
#include "launch/init.h"
#include "launch/net.h"
#include "launch/output.h"
#include "launch/port.h"
#include "launch/save_config.h"
#include "launch/supervisor.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

// Makes the log directories. What an earlier launch left in LOG_DIR goes, so that nobody takes its
// logs for this one's; not where other nodes may write there too. TAKEN: another launch of this
// very second has the run directory.
Result<void> PrepareLogs(const LaunchPlan& plan, bool& taken) {
  taken = false;
  std::error_code error;
  if (!plan.new_run_directory.empty()) {
    fs::create_directories(plan.new_run_directory.parent_path(), error);
    if (mkdir(plan.new_run_directory.c_str(), 0777) != 0 && errno == EEXIST) {
      taken = true;
      return {};
    }
  }
  const bool alone = plan.nodes.nodes == 1;
  for (std::size_t i = 0; i < (alone ? plan.ranks.size() : 1); ++i) {
    const fs::path directory = alone ? RankLogs(plan, {}, i) : plan.log_dir;
    fs::create_directories(directory, error);
    if (error) {
      return Usage(
          fmt::format("cannot make the log directory {}: {}", directory.string(), error.message()),
          "Name one that you may write to with --log-dir.");
    }
  }
  if (!alone) return {};
  for (const auto& attempt : fs::directory_iterator(plan.log_dir, error)) {
    if (!attempt.path().filename().string().starts_with("attempt_")) continue;
    std::error_code unreadable;
    for (const auto& rank : fs::directory_iterator(attempt, unreadable)) {
      for (const char* name : {"stdout.log", "stderr.log", "error.json"}) {
        fs::remove(rank.path() / name, unreadable);
      }
    }
  }
  fs::remove(plan.log_dir / "outcome.json", error);
  return {};
}

Result<Fd> ListenForNodes(NodePlan& nodes, const NodeSetup& setup,
                          const std::vector<Interface>& interfaces) {
  if (!nodes.rank) {
    // As torchrun's c10d: who has the endpoint's address is node 0, the first one on it.
    ENVKIT_TRY(const auto addresses, Resolve(nodes.host, nodes.port));
    if (!IsLocal(addresses, interfaces)) return Fd();
  } else if (*nodes.rank != 0) {
    return Fd();
  }
  int error = 0;
  Fd listener = Listen(setup.local ? &*setup.local : nullptr, nodes.port, error);
  if (listener) return listener;
  if (error == EADDRINUSE && !nodes.rank) return Fd();  // another node of this machine
  if (error == EADDRINUSE) {
    Error taken = PortTaken(nodes.port, FindPortHolder(nodes.port));
    taken.next = "Choose another port in --rdzv-endpoint, on all nodes.";
    return Unexpected(taken);
  }
  return Missing(fmt::format("cannot listen at port {}: {}", nodes.port, std::strerror(error)));
}

// Where the launchers meet, and what the ranks' libraries are told of the interface.
Result<NodeSetup> PrepareNodes(LaunchPlan& plan, const std::map<std::string, std::string>& env) {
  NodeSetup setup;
  if (plan.nodes.nodes == 1) return setup;
  const auto interfaces = Interfaces();
  if (!plan.nodes.local.empty()) {
    ENVKIT_TRY(const Address local, LocalAddress(plan.nodes.local, interfaces));
    setup.local = local;
    for (const Interface& one : interfaces) {
      if (one.address.Text() != local.Text()) continue;
      for (const char* name : {"NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"}) {
        if (!env.contains(name)) plan.env.emplace_back(name, one.name);
      }
      break;
    }
  }
  ENVKIT_TRY(setup.listener, ListenForNodes(plan.nodes, setup, interfaces));
  return setup;
}

std::optional<std::string> AskOnTerminal(const std::string& question) {
  Sink(STDERR_FILENO).Write(question);
  std::string line;
  char c = 0;
  while (read(STDIN_FILENO, &c, 1) == 1) {
    if (c == '\n') return line;
    line += c;
  }
  return std::nullopt;
}

Result<int> SaveTheConfig(const LaunchOptions& options, const HostFacts& facts) {
  if (!options.program.empty()) {
    return Usage("--save-config starts nothing", "Leave out " + options.program.front() + ".");
  }
  const bool terminal = isatty(STDIN_FILENO) == 1;
  Sink errors(STDERR_FILENO);
  if (!terminal) errors.Write("note     no terminal to ask on: the flags and the defaults hold\n");
  const int gpus = static_cast<int>(
      JudgeGpus(facts).state == GpuState::kUsable ? VisibleGpus(facts, nullptr).size() : 0);
  ENVKIT_TRY(const std::string said,
             SaveConfig(options.flags, gpus, terminal ? AskLine(AskOnTerminal) : AskLine()));
  errors.Write(said);
  return 0;
}

}  // namespace

Result<int> Launch(const LaunchOptions& options) {
  EnsureStandardDescriptors();
  if (options.init) return RunAsInit(options.program);
  const HostFacts facts = ProbeHost();
  if (options.save_config) return SaveTheConfig(options, facts);
  const auto env = OwnEnvironment();
  while (true) {
    ENVKIT_TRY(LaunchPlan plan, PlanLaunch(options, facts, env, std::chrono::system_clock::now()));
    if (options.explain) {
      Sink(STDOUT_FILENO).Write(ExplainText(plan));
      return 0;
    }
    // As late as possible, and before anything is written.
    ENVKIT_TRY(NodeSetup setup, PrepareNodes(plan, env));
    const bool leading = plan.nodes.nodes == 1 || setup.listener;
    ENVKIT_TRY(HeldPort port, HoldPort(leading ? plan.master_port : 0));
    const GpuHealth health = LookAtGpus(plan.gpus);
    if (!health.broken.empty()) {
      return Missing(health.broken.front(),
                     "Use the others (--gpu-ids), or see what is wrong: envkit doctor");
    }
    plan.notes.insert(plan.notes.end(), health.notes.begin(), health.notes.end());
    ENVKIT_TRY(Leases leases, TakeLeases(plan.lease));  // the GPUs are ours until we end
    plan.notes.insert(plan.notes.end(), leases.notes.begin(), leases.notes.end());
    bool taken = false;
    ENVKIT_CHECK(PrepareLogs(plan, taken));
    if (taken) continue;
    for (const std::string& note : plan.quiet ? std::vector<std::string>{} : plan.notes) {
      Sink(STDERR_FILENO).Write(fmt::format("{:<9}{}\n", "launch", note));
    }
    return RunGuarded([&](Supervised link) {
      return Supervise(plan, std::move(port), std::move(setup), std::move(link));
    });
  }
}

}  // namespace envkit
