// The part of `envkit verify` that looks at containers that run.
#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"
#include "base/terminal.h"
#include "engine/running.h"
#include "image/store.h"
#include "project/lock.h"
#include "session/verify.h"

namespace envkit {

// CONTAINER: a name, a job or a process; empty: all that this store's images run in. kMissing where
// there is none. In a project, DIRECTORY, its containers must also be of its current lock.
Result<void> VerifyRunning(const std::filesystem::path& directory, const std::string& container,
                           const std::string& engine, VerifyReport& report);

// Of one container: its image, its files, its loaded libraries.
// LOCK: of the project called PROJECT; null: there is none.
std::vector<Check> CheckContainer(const RunningContainer& container, const Store& store,
                                  const Lock* lock, const std::string& project);

// The own words of docker or podman about an image that was given to it.
Check CheckEngineImage(const std::string& engine, const Image& image);

}  // namespace envkit
