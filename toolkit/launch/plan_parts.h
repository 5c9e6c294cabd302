// Parts of PlanLaunch that stand for themselves.
#pragma once

#include "launch/plan.h"

namespace envkit {

// Where the launchers of all nodes meet, and where the ranks do.
Result<void> PlanNodes(const Settings& settings, LaunchPlan& plan);

// Which of the ranks' streams go to the console.
Result<void> PlanConsole(const Settings& settings, LaunchPlan& plan);

}  // namespace envkit
