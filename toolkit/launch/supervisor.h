// Starts the ranks and watches them to the end, in one thread and one epoll loop: a pidfd and two
// pipes for each rank, a signalfd, and the pipe that says that the parent is gone.
#pragma once

#include "launch/guard.h"
#include "launch/plan.h"
#include "launch/port.h"

namespace envkit {

// The exit code of the job. Returns when no process of the job is left.
int Supervise(const LaunchPlan& plan, HeldPort port, Supervised link);

}  // namespace envkit
