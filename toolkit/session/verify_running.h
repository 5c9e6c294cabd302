// The part of `envkit verify` that looks at containers that run.
#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"
#include "base/terminal.h"
#include "engine/running.h"
#include "image/store.h"
#include "session/verify.h"

namespace envkit {

// CONTAINER: a name, a job or a process; empty: all. kMissing where there is none.
Result<void> VerifyRunning(const std::string& container, const std::string& engine,
                           VerifyReport& report, Terminal& terminal);

// Of one container: its image, its files, its loaded libraries.
std::vector<Check> CheckContainer(const RunningContainer& container, const Store& store);

// docker's own words about an image that was given to it.
Check CheckDockerImage(const Image& image);

}  // namespace envkit
