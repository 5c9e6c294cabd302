// One more command in a container that runs, and its end.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "engine/running.h"

namespace envkit {

// Runs ARGV beside what runs there, as the same user, with the same variables, on our stdin, stdout
// and stderr; its exit code (128 + signal).
Result<int> EnterContainer(const RunningContainer& container, const std::vector<std::string>& argv);

// SIGTERM to its first process; SIGKILL after PATIENCE seconds. Returns once it is gone.
Result<void> StopContainer(const RunningContainer& container, double patience);

}  // namespace envkit
