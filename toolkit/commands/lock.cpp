#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <system_error>

#include "base/files.h"
#include "commands/command.h"
#include "image/resolve.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

struct LockOptions {
  bool check = false;
  std::optional<std::string> upgrade;  // "" for everything, "system", or a package
};

void Report(const Lock& lock, const std::string& diff, bool changed, std::string_view ending,
            Context& context) {
  if (context.json) {
    const nlohmann::json answer = {{"schema", 1},
                                   {"changed", changed},
                                   {"digest", lock.Digest()},
                                   {"torch", lock.torch},
                                   {"cuda", lock.cuda},
                                   {"python", lock.python},
                                   {"wheels", lock.wheels.size()},
                                   {"debian_packages", lock.debs.size()},
                                   {"diff", diff}};
    context.terminal.Answer(answer.dump(2));
    return;
  }
  context.terminal.Step(
      "lock", fmt::format("torch {} · {} · {} wheels · {} Debian packages   {}", lock.torch,
                          lock.cuda.empty() ? "no CUDA" : "CUDA " + lock.cuda, lock.wheels.size(),
                          lock.debs.size(), ending));
  std::istringstream lines(diff);
  for (std::string line; std::getline(lines, line);) context.terminal.Note(line);
}

Result<int> RunLock(const LockOptions& options, Context& context) {
  const auto started = std::chrono::steady_clock::now();
  ENVKIT_TRY(const Project project, LoadProject(context.directory));
  ENVKIT_TRY(const fs::path share, ShareDirectory());
  ENVKIT_TRY(const Recipes recipes, LoadRecipes(share / "images"));
  const fs::path file = project.root / "envkit.lock";
  std::optional<Lock> old;
  std::error_code error;
  if (fs::exists(file, error)) {
    ENVKIT_TRY(const std::string text, ReadFile(file));
    auto parsed = ParseLock(text, file);
    if (parsed) {
      old = std::move(*parsed);
    } else if (options.check) {
      return Unexpected(std::move(parsed.error()));
    }
  }
  const LockInputs inputs = InputsOf(project, RecipesDigest(recipes));
  const std::vector<std::string> stale =
      old ? LockDifferences(*old, inputs) : std::vector<std::string>{"there is no envkit.lock"};
  if (options.check) {
    if (!stale.empty()) {
      std::string what = "envkit.lock does not fit envkit.toml";
      for (const std::string& line : stale) what += "\n" + line;
      return Fail(what, "envkit lock");
    }
    Report(*old, "", false, "fits", context);
    return 0;
  }
  if (stale.empty() && !options.upgrade) {
    Report(*old, "", false, "unchanged; newer versions: envkit lock --upgrade", context);
    return 0;
  }

  ResolveOptions resolve;
  Lock preferred;
  if (old) {
    preferred = *old;
    resolve.system_only = options.upgrade == "system" && stale.empty();
    // Without --upgrade, and for all but the package that it names, versions stay where they fit.
    if (options.upgrade != "") resolve.previous = &preferred;
    if (options.upgrade && options.upgrade != "system") {
      std::erase_if(preferred.wheels,
                    [&](const LockedWheel& wheel) { return wheel.name == *options.upgrade; });
    }
  }
  ENVKIT_TRY(const Store store, Store::Open());
  auto lock = ResolveLock(project, recipes, store, context.terminal, resolve);
  if (!lock) return Wrap(lock.error(), "locking");
  // Results stand for the inputs that they were built from.
  const bool changed = !old || lock->Digest() != old->Digest();
  if (!changed) lock->built = old->built;
  ENVKIT_CHECK(WriteFileAtomic(file, LockToToml(*lock)));
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
  Report(*lock, old ? LockDiff(*old, *lock) : "", changed, HumanSeconds(took.count()), context);
  return 0;
}

}  // namespace

Command LockCommand() {
  return {
      "lock", "Resolve what envkit.toml asks for and write envkit.lock",
      "envkit lock                    after a change of envkit.toml\n"
      "envkit lock --upgrade system   newer Debian packages, the same wheels",
      [](CLI::App& app) -> Action {
        auto options = std::make_shared<LockOptions>();
        app.add_flag("--check", options->check,
                     "Only say whether envkit.lock fits envkit.toml (exit code 1: no)");
        app.add_option_function<std::string>(
               "--upgrade", [options](const std::string& what) { options->upgrade = what; },
               "Take newer versions: of everything, of one package, or of the Debian part alone")
            ->type_name("[PACKAGE|system]")
            ->expected(0, 1);
        return [options](Context& context) { return RunLock(*options, context); };
      }};
}

}  // namespace envkit
