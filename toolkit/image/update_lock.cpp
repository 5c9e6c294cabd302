#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <system_error>

#include "base/files.h"
#include "image/index.h"
#include "image/lock_findings.h"
#include "image/resolve.h"
#include "image/wheel_name.h"
#include "matrix/advise.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

// Nothing that the Debian part follows from has changed.
bool SameSystem(const LockInputs& before, const LockInputs& after) {
  return before.base == after.base && before.system == after.system &&
         before.recipes == after.recipes;
}

Unexpected ProblemAt(const Project& project, const EnvironmentProblem& problem) {
  return Unexpected(UsageAt(project, problem.key, "", problem.what, problem.next));
}

// Refuses what never existed, or cannot fit, before minutes are spent on it.
Result<void> CheckBefore(const Project& project, const Machine& machine, const Matrix& matrix,
                         Terminal& terminal) {
  const EnvironmentSettings& settings = project.environment;
  const bool other_indexes =
      !ConfiguredIndexes(project.indexes, CurrentEnvironment()).All().empty();
  const EnvironmentQuestion question{settings.torch, settings.cuda, settings.python, other_indexes};
  if (const auto problem = CheckEnvironment(matrix, question, machine)) {
    return ProblemAt(project, *problem);
  }
  // A version that is written down is meant, for other machines too.
  if (const auto advice = AdviseOnDriver(matrix, settings.cuda, settings.python, machine)) {
    terminal.Warn("this machine cannot run what is locked: " + advice->what);
  }
  return {};
}

// "auto" is this machine's choice: an index of the user's own may have had another build.
Result<void> CheckAfter(const Project& project, const Machine& machine, const Matrix& matrix,
                        const Lock& lock) {
  if (project.environment.cuda != "auto") return {};
  const auto advice = AdviseOnDriver(matrix, lock.cuda, lock.python, machine);
  if (!advice) return {};
  return ProblemAt(
      project, {"torch",
                fmt::format("this machine cannot run the index's build of PyTorch {}: {}",
                            lock.torch, advice->what),
                fmt::format("{}\nTo lock for other machines, write cuda = \"{}\".", advice->next,
                            lock.cuda)});
}

}  // namespace

Result<LockReport> UpdateLock(const Project& project, const Recipes& recipes,
                              const LockRequest& request, Terminal& terminal,
                              const RunInRoot& run) {
  const fs::path file = project.root / "envkit.lock";
  std::optional<Lock> old;
  std::error_code error;
  if (fs::exists(file, error)) {
    ENVKIT_TRY(const std::string text, ReadFile(file));
    auto parsed = ParseLock(text, file);
    if (parsed) {
      old = std::move(*parsed);
    } else if (request.check) {
      return Unexpected(std::move(parsed.error()));
    } else {
      terminal.Warn("envkit.lock is damaged; it is made anew");
    }
  }
  const LockInputs inputs = InputsOf(project, RecipesDigest(recipes));
  const std::vector<std::string> stale =
      old ? LockDifferences(*old, inputs) : std::vector<std::string>{"there is no envkit.lock"};
  if (request.check && !stale.empty()) {
    std::string what = "envkit.lock does not fit envkit.toml";
    for (const std::string& line : stale) what += "\n" + line;
    return Fail(what, "envkit lock");
  }
  LockReport report;
  if (stale.empty() && !request.upgrade) {
    report.lock = std::move(*old);
    report.findings = JudgeWheels(report.lock, {});
    return report;
  }

  ResolveOptions options;
  options.run = run;
  Lock preferred;
  if (old) {
    preferred = *old;
    options.system_only = request.upgrade == "system" && stale.empty();
    if (request.upgrade != "") options.previous = &preferred;
    options.keep_system = request.upgrade != "system" && SameSystem(old->inputs, inputs);
    if (request.upgrade && !request.upgrade->empty() && *request.upgrade != "system") {
      const std::string name = NormaliseName(*request.upgrade);
      const std::size_t dropped = std::erase_if(
          preferred.wheels, [&](const LockedWheel& wheel) { return wheel.name == name; });
      if (dropped == 0) {
        return Usage(fmt::format("--upgrade {}: no such package is in envkit.lock", name),
                     "Name one of its wheels, or system for the Debian part.");
      }
    }
  }
  ENVKIT_TRY(const fs::path share, ShareDirectory());
  ENVKIT_TRY(const Matrix matrix, LoadMatrix(share / "images"));
  if (!options.system_only) {
    ENVKIT_CHECK(CheckBefore(project, request.machine, matrix, terminal));
  }
  ENVKIT_TRY(const Store store, Store::Open());
  auto lock = ResolveLock(project, recipes, store, terminal, options, &report.findings);
  if (!lock) return Wrap(std::move(lock.error()), "locking");
  report.lock = std::move(*lock);
  if (!options.system_only) {
    ENVKIT_CHECK(CheckAfter(project, request.machine, matrix, report.lock));
  }
  report.resolved = true;
  report.changed = !old || report.lock.Digest() != old->Digest();
  // Images stand for the lock that they were built from.
  if (!report.changed) report.lock.built = old->built;
  if (old) {
    report.changes = ChangesBetween(*old, report.lock);
    report.diff = LockDiff(*old, report.lock);
  }
  report.new_files = FilesToFetch(old.value_or(Lock{}), report.lock, store);
  ENVKIT_CHECK(WriteFileAtomic(file, LockToToml(report.lock)));
  return report;
}

}  // namespace envkit
