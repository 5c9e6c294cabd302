// The engines that there are; OpenEngine picks.
#pragma once

#include <memory>

#include "base/result.h"
#include "engine/engine.h"

namespace envkit {

Result<std::unique_ptr<Engine>> OpenOciEngine();
Result<std::unique_ptr<Engine>> OpenDockerEngine();
Result<std::unique_ptr<Engine>> OpenPodmanEngine();
// False where it is plain, without asking docker's client, that no daemon is there.
bool DockerMayAnswer();

}  // namespace envkit
