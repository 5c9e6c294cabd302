// Starts the ranks and watches them to the end, in one thread and one epoll loop: a pidfd and two
// pipes for each rank, a signalfd, and the pipe that says that the parent is gone.
#pragma once

#include <optional>

#include "launch/guard.h"
#include "launch/net.h"
#include "launch/plan.h"
#include "launch/port.h"

namespace envkit {

struct NodeSetup {
  Fd listener;                   // node 0's, where there are other nodes
  std::optional<Address> local;  // what connections to other nodes start from
};

// The exit code of the job. Returns when no process of the job is left on this node.
int Supervise(const LaunchPlan& plan, HeldPort port, NodeSetup setup, Supervised link);

}  // namespace envkit
