// `envkit lock`: envkit.toml → envkit.lock. Wheels by uv, Debian packages by apt's own solver in
// private directories; the host's package state is read, never written.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/http.h"
#include "base/result.h"
#include "base/terminal.h"
#include "image/build.h"
#include "image/lock_changes.h"
#include "image/lock_findings.h"
#include "image/recipe.h"
#include "image/store.h"
#include "matrix/judge.h"
#include "project/lock.h"
#include "project/project.h"

namespace envkit {

struct ResolveOptions {
  bool system_only = false;  // keep the wheels of PREVIOUS, re-lock the Debian part alone
  bool keep_system = false;  // keep the Debian part of PREVIOUS
  const Lock* previous = nullptr;
  RunInRoot run = {};  // builds wheels of what comes as source alone; empty: that is an error
};

// Wheels of the user's own and from URLs are in the store afterwards. FINDINGS gets the warnings;
// what cannot work is an error.
Result<Lock> ResolveLock(const Project& project, const Recipes& recipes, const Store& store,
                         Terminal& terminal, const ResolveOptions& options = {},
                         std::vector<LockFinding>* findings = nullptr);

// What `envkit lock` does about PROJECT's envkit.lock.
struct LockRequest {
  bool check = false;  // only compare: kFailed with the differences where it is stale
  std::optional<std::string>
      upgrade;           // "": everything; "system": the Debian part; else one package
  Machine machine = {};  // where it is asked; cuda = "auto" is what its driver runs
};
struct LockReport {
  Lock lock;
  bool resolved = false;  // false: it fitted, and was left as it is
  bool changed = false;
  std::string diff;  // LockDiff to the lock that was there
  std::vector<LockChange> changes;
  NewFiles new_files;  // that the lock before did not name
  std::vector<LockFinding> findings;
};
// Locked versions stay where they still fit, unless an upgrade was asked for. The file is written
// when all is resolved, at once.
Result<LockReport> UpdateLock(const Project& project, const Recipes& recipes,
                              const LockRequest& request, Terminal& terminal,
                              const RunInRoot& run = {});

// `envkit lock --record`: the digests of those images of LOCK that the store has go into its
// [[built]], and the file is written. kFailed where there are none.
struct RecordReport {
  std::vector<BuiltImage> built;         // of this call; sorted
  std::vector<std::string> new_images;   // "train-cpu"
  std::vector<std::string> differences;  // one line for each that was on record with other digests
};
Result<RecordReport> RecordBuilt(const Project& project, Lock lock, const Recipes& recipes,
                                 const Store& store);

// Where to fetch locked files from: asks the user's index (by project name) and Debian mirror for
// the file with this name and hash. Fetched into the store's downloads; nothing happens for files
// that are there. A .deb that is gone from its mirrors: kMissing, with code in `gone_debs`.
struct FetchRequest {
  std::vector<LockedWheel> wheels;
  std::vector<LockedDeb> debs;
  std::vector<DataArtefact> data;
};
struct FetchOutcome {
  std::vector<LockedDeb> gone_debs;  // not on mirror or snapshot any more
};
Result<FetchOutcome> FetchLocked(const Project& project, const FetchRequest& request,
                                 const Store& store, Terminal& terminal);

}  // namespace envkit
