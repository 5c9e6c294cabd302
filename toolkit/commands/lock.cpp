#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/files.h"
#include "commands/command.h"
#include "image/resolve.h"

namespace envkit {
namespace {

void Print(const LockReport& report, const std::string& ending, Context& context) {
  const Lock& lock = report.lock;
  if (context.json) {
    const nlohmann::json answer = {{"schema", 1},
                                   {"resolved", report.resolved},
                                   {"changed", report.changed},
                                   {"digest", lock.Digest()},
                                   {"torch", lock.torch},
                                   {"cuda", lock.cuda},
                                   {"python", lock.python},
                                   {"wheels", lock.wheels.size()},
                                   {"debian_packages", lock.debs.size()},
                                   {"diff", report.diff}};
    context.terminal.Answer(answer.dump(2));
    return;
  }
  context.terminal.Step(
      "lock", fmt::format("torch {} · {} · {} wheels · {} Debian packages   {}", lock.torch,
                          lock.cuda.empty() ? "no CUDA" : "CUDA " + lock.cuda, lock.wheels.size(),
                          lock.debs.size(), ending));
  std::istringstream lines(report.diff);
  for (std::string line; std::getline(lines, line);) context.terminal.Note(line);
}

Result<int> RunLock(const LockRequest& request, Context& context) {
  const auto started = std::chrono::steady_clock::now();
  ENVKIT_TRY(const Project project, LoadProject(context.directory));
  ENVKIT_TRY(const std::filesystem::path share, ShareDirectory());
  ENVKIT_TRY(const Recipes recipes, LoadRecipes(share / "images", ProfileOptions(project)));
  ENVKIT_TRY(const LockReport report, UpdateLock(project, recipes, request, context.terminal));
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
          "envkit lock --upgrade system   newer Debian packages, the same wheels",
          [](CLI::App& app) -> Action {
            auto request = std::make_shared<LockRequest>();
            CLI::Option* check =
                app.add_flag("--check", request->check,
                             "Only say whether envkit.lock fits envkit.toml (exit code 1: no)");
            app.add_option_function<std::string>(
                   "--upgrade", [request](const std::string& what) { request->upgrade = what; },
                   "Take newer versions: of everything, one package, or the Debian part alone")
                ->type_name("[PACKAGE|system]")
                ->expected(0, 1)
                ->excludes(check);
            return [request](Context& context) { return RunLock(*request, context); };
          }};
}

}  // namespace envkit
