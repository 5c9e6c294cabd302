// Packages that come as source alone: which ones uv cannot do without, and how a wheel is made of
// one. The build backend runs in the builder's Debian system with locked wheels beside it, without
// a network, and never on the host.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/terminal.h"
#include "image/build.h"
#include "image/index.h"
#include "image/store.h"
#include "image/uv.h"
#include "project/lock.h"
#include "project/project.h"

namespace envkit {

// The root of debs that builds run in; in a lock only where there is something to build.
inline constexpr char kSdistRoot[] = "sdist";
// Beyond the builder recipe's own.
std::vector<std::string> SdistDebian(const Recipes& recipes);

// The newest sdist within BOUNDS among FILES, final releases first; nullopt where there is none.
struct Sdist {
  std::string version;
  IndexFile file;
};
std::optional<Sdist> NewestSdist(const std::vector<IndexFile>& files, const std::string& name,
                                 const std::string& bounds);

// False where an older source would only be taken because newer wheels do not fit something else:
// then that is what has to be told.
bool WorthBuilding(const std::vector<IndexFile>& files, const SourceOnly& wanted,
                   const Sdist& sdist);

// What everything here needs to know.
struct SdistSetting {
  const Project& project;
  const Store& store;
  const RunInRoot& run;
  Terminal& terminal;
  std::string python;           // "3.13"
  std::vector<LockedDeb> debs;  // of kSdistRoot
};

// `[build-system] requires` of a source; setuptools and wheel where it says nothing.
Result<std::vector<std::string>> BuildRequirements(const std::filesystem::path& source);

struct BuiltSdist {
  LockedWheel wheel;  // in the store
  LockedSource source;
  std::vector<LockedWheel> build_wheels;  // what the build needed
};
// Resolves what the build needs, builds, and says what is to be locked of it; nullopt where WANTED
// is not what is wrong.
Result<std::optional<BuiltSdist>> LockSdist(const SdistSetting& setting,
                                            const PythonIndexes& indexes, const SourceOnly& wanted,
                                            const std::vector<LockedWheel>& preferred);

// Those wheels of LOCK that PLAN needs, that come from source and that the store lacks, built
// again. One that comes out other than it was locked is an error.
Result<void> EnsureSdists(const Project& project, const Lock& lock, const ImagePlan& plan,
                          const Store& store, const RunInRoot& run, Terminal& terminal);

}  // namespace envkit
