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
  const fs::path file = LockFile(project);
  const std::string name = file.filename().string();
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
      terminal.Warn(name + " is damaged; it is made anew");
    }
  }
  const LockInputs inputs = InputsOf(project, RecipesDigest(recipes));
  const std::vector<std::string> stale =
      old ? LockDifferences(*old, inputs) : std::vector<std::string>{"there is no " + name};
  if (request.check && !stale.empty()) {
    std::string what = name + " does not fit envkit.toml";
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
  // Wheels of sources are built by running them.
  if (project.architecture == HostArchitecture()) options.run = run;
  Lock preferred;
  if (old) {
    preferred = *old;
    options.system_only = request.upgrade == "system" && stale.empty();
    if (request.upgrade != "") options.previous = &preferred;
    options.keep_system = request.upgrade != "system" && SameSystem(old->inputs, inputs);
    if (request.upgrade && !request.upgrade->empty() && *request.upgrade != "system") {
      const std::string wanted = NormaliseName(*request.upgrade);
      const std::size_t dropped = std::erase_if(
          preferred.wheels, [&](const LockedWheel& wheel) { return wheel.name == wanted; });
      if (dropped == 0) {
        return Usage(fmt::format("--upgrade {}: no such package is in {}", wanted, name),
                     "Name one of its wheels, or system for the Debian part.");
      }
    }
  }
  Project usual = project;
  usual.architecture = Project().architecture;
  if (!old && project.architecture != usual.architecture) {
    // The first lock for another architecture keeps to the versions of the usual one.
    if (const auto text = ReadFile(LockFile(usual))) {
      if (auto lock = ParseLock(*text, LockFile(usual))) {
        preferred.wheels = std::move(lock->wheels);
        options.previous = &preferred;
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

Result<RecordReport> RecordBuilt(const Project& project, Lock lock, const Recipes& recipes,
                                 const Store& store) {
  RecordReport report;
  for (const auto& [profile, recipe] : recipes) {
    if (profile == "builder") continue;
    for (const char* variant : {"cpu", "cuda"}) {
      // An image that the lock does not hold ("cuda" of a project for CPUs) was not built either.
      const auto plan = PlanImage(project, lock, recipes, profile, variant);
      if (!plan) continue;
      ENVKIT_TRY(const std::optional<Image> image, FindImage(*plan, store));
      if (!image) continue;
      BuiltImage built{profile, variant, plan->architecture, image->config_digest, {}};
      for (const Layer& layer : image->layers) built.diff_ids.push_back(layer.diff_id);
      report.built.push_back(std::move(built));
    }
  }
  if (report.built.empty()) {
    return Fail("no image of this lock is in the store: there is nothing to record",
                "envkit build, then envkit lock --record");
  }
  for (const BuiltImage& built : report.built) {
    const std::string name = built.profile + "-" + built.variant;
    const auto known = std::find_if(lock.built.begin(), lock.built.end(), [&](const auto& other) {
      return other.profile == built.profile && other.variant == built.variant &&
             other.architecture == built.architecture;
    });
    if (known == lock.built.end()) {
      report.new_images.push_back(name);
      lock.built.push_back(built);
      continue;
    }
    if (known->config_digest != built.config_digest || known->diff_ids != built.diff_ids) {
      report.differences.push_back(fmt::format("{} was {:.12} on record, and is {:.12} here", name,
                                               known->config_digest, built.config_digest));
    }
    *known = built;
  }
  ENVKIT_CHECK(WriteFileAtomic(LockFile(project), LockToToml(lock)));
  return report;
}

}  // namespace envkit
