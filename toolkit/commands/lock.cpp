#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <sstream>

#include "base/files.h"
#include "commands/command.h"
#include "image/resolve.h"
#include "image/show_lock.h"
#include "session/driver.h"
#include "session/environment.h"

namespace envkit {
namespace {

void Print(const LockReport& report, const std::string& ending, Context& context) {
  const Lock& lock = report.lock;
  if (context.json) return context.terminal.Answer(LockReportToJson(report).dump(2));
  context.terminal.Step(
      "lock", fmt::format("torch {} · {} · {} wheels · {} Debian packages   {}", lock.torch,
                          lock.cuda.empty() ? "no CUDA" : "CUDA " + lock.cuda, lock.wheels.size(),
                          lock.debs.size(), ending));
  std::istringstream lines(report.diff + "\n" + DescribeFetch(report.new_files));
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty()) context.terminal.Note(line);
  }
  for (const LockFinding& finding : report.findings) {
    context.terminal.Warn(finding.cause + "\n  " + finding.remedy);
  }
}

struct LockOptions {
  LockRequest request;
  std::string architecture;
  bool record = false;
};

Result<int> Record(const LockOptions& options, Context& context) {
  ENVKIT_TRY(const Environment env, LoadEnvironment(context.directory, options.architecture));
  ENVKIT_TRY(const RecordReport report, RecordBuilt(env.project, env.lock, env.recipes, env.store));
  for (const BuiltImage& built : report.built) {
    context.terminal.Step("lock",
                          fmt::format("on record: {}-{} for {}   config digest {}", built.profile,
                                      built.variant, built.architecture, built.config_digest));
  }
  for (const std::string& difference : report.differences) {
    context.terminal.Warn(difference +
                          "\n  Another version of envkit makes another image of one lock: its own "
                          "files are in it.\n  With the same version they must be equal: "
                          "envkit verify");
  }
  if (context.json) context.terminal.Answer(RecordReportToJson(report).dump(2));
  return 0;
}

Result<int> RunLock(const LockOptions& options, Context& context) {
  if (options.record) return Record(options, context);
  LockRequest request = options.request;
  const auto started = std::chrono::steady_clock::now();
  ENVKIT_TRY(Project project, LoadProject(context.directory));
  if (!options.architecture.empty()) project.architecture = options.architecture;
  ENVKIT_TRY(const std::filesystem::path share, ShareDirectory());
  ENVKIT_TRY(const Recipes recipes, LoadRecipes(share / "images", ProfileOptions(project)));
  // Another machine's driver is not known here.
  if (project.architecture == HostArchitecture()) request.machine = MachineOf(ProbeHost());
  ENVKIT_TRY(const LockReport report,
             UpdateLock(project, recipes, request, context.terminal, RunInBuildSandbox));
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
  std::string ending = HumanSeconds(took.count());
  if (request.check) {
    ending = "fits envkit.toml";
  } else if (!report.resolved) {
    ending = "unchanged; for newer versions: envkit lock --upgrade";
  } else if (!report.changed) {
    ending = "unchanged   " + ending;
  }
  Print(report, ending, context);
  return 0;
}

}  // namespace

Command LockCommand() {
  return {"lock", "Resolve what envkit.toml asks for and write envkit.lock",
          "envkit lock                    after a change of envkit.toml\n"
          "envkit lock --upgrade system   newer Debian packages, the same wheels\n"
          "envkit lock --check            in CI: exit code 1 where the lock is stale\n"
          "envkit lock --record           after envkit build: the images' digests, for verify",
          [](CLI::App& app) -> Action {
            auto options = std::make_shared<LockOptions>();
            LockRequest* request = &options->request;
            CLI::Option* check =
                app.add_flag("--check", request->check,
                             "Only say whether envkit.lock fits envkit.toml (exit code 1: no)");
            CLI::Option* upgrade =
                app.add_option_function<std::string>(
                       "--upgrade",
                       [options](const std::string& what) { options->request.upgrade = what; },
                       "Take newer versions: of everything, one package, or the Debian part alone")
                    ->type_name("[PACKAGE|system]")
                    ->expected(0, 1)
                    ->excludes(check);
            app.add_flag("--record", options->record,
                         "Write the digests of the images that were built from it into envkit.lock")
                ->excludes(check)
                ->excludes(upgrade);
            app.add_option("--architecture", options->architecture,
                           "x86_64 or aarch64; this machine's by default. Each has its own file")
                ->check(CLI::IsMember({"x86_64", "aarch64"}));
            return [options](Context& context) { return RunLock(*options, context); };
          }};
}

}  // namespace envkit
