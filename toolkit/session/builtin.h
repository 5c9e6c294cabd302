// The jobs that every project has: jupyter, tensorboard and shell, in the dev image. A job of that
// name in envkit.toml goes first.
#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"
#include "base/terminal.h"
#include "session/plan_run.h"

namespace envkit {

bool IsBuiltinJob(const std::string& name);

// REQUEST.job is one of them; its arguments are added to the program's own. The URL goes to stdout
// as one line once the server answers.
Result<int> RunBuiltin(const std::filesystem::path& directory, RunRequest request, bool json,
                       Terminal& terminal);

// passwd and group in REQUEST's session directory, and the project's directory of runs: what every
// plan of a built-in job mounts.
Result<void> WriteAccounts(const RunRequest& request, const RunSetting& setting);

}  // namespace envkit
