// `envkit run`: makes what is missing, plans, runs, reports.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/terminal.h"
#include "session/plan_run.h"

namespace envkit {

// The job's own exit code (128 + signal). With dry_run or explain nothing is built or started.
Result<int> RunJob(const std::filesystem::path& directory, const RunRequest& request, bool json,
                   Terminal& terminal);

}  // namespace envkit
