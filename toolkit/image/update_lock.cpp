#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <system_error>

#include "base/files.h"
#include "image/resolve.h"
#include "image/wheel_name.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

// Nothing that the Debian part follows from has changed.
bool SameSystem(const LockInputs& before, const LockInputs& after) {
  return before.base == after.base && before.system == after.system &&
         before.recipes == after.recipes;
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
  ENVKIT_TRY(const Store store, Store::Open());
  auto lock = ResolveLock(project, recipes, store, terminal, options, &report.findings);
  if (!lock) return Wrap(std::move(lock.error()), "locking");
  report.lock = std::move(*lock);
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
