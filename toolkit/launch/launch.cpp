#include "launch/launch.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "launch/guard.h"
#include "launch/init.h"
#include "launch/output.h"
#include "launch/port.h"
#include "launch/supervisor.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

// Makes the log directories. What an earlier launch left in LOG_DIR goes, so that nobody takes its
// logs for this one's. TAKEN: another launch of this very second has the run directory.
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
  for (std::size_t rank = 0;; ++rank) {
    const fs::path directory = plan.log_dir / "attempt_0" / std::to_string(rank);
    if (rank < plan.ranks.size()) {
      fs::create_directories(directory, error);
      if (error) {
        return Usage(fmt::format("cannot make the log directory {}: {}", directory.string(),
                                 error.message()),
                     "Name one that you may write to with --log-dir.");
      }
    } else if (!fs::exists(directory, error)) {
      break;
    }
    for (const char* name : {"stdout.log", "stderr.log", "error.json"}) {
      fs::remove(directory / name, error);
    }
  }
  fs::remove(plan.log_dir / "outcome.json", error);
  return {};
}

}  // namespace

Result<int> Launch(const LaunchOptions& options) {
  EnsureStandardDescriptors();
  if (options.init) return RunAsInit(options.program);
  const HostFacts facts = ProbeHost();
  const auto env = OwnEnvironment();
  while (true) {
    ENVKIT_TRY(const LaunchPlan plan,
               PlanLaunch(options, facts, env, std::chrono::system_clock::now()));
    // As late as possible, and before anything is written.
    ENVKIT_TRY(HeldPort port, HoldPort(plan.master_port));
    bool taken = false;
    ENVKIT_CHECK(PrepareLogs(plan, taken));
    if (taken) continue;
    if (!plan.note.empty() && !plan.quiet) {
      Sink(STDERR_FILENO).Write(fmt::format("{:<9}{}\n", "launch", plan.note));
    }
    return RunGuarded(
        [&](Supervised link) { return Supervise(plan, std::move(port), std::move(link)); });
  }
}

}  // namespace envkit
