// `envkit launch` and `envkit-launch`: PlanLaunch decides, RunGuarded and Supervise execute.
#pragma once

#include "base/result.h"
#include "launch/plan.h"

namespace envkit {

// The job's exit code, or why nothing was started.
Result<int> Launch(const LaunchOptions& options);

}  // namespace envkit
