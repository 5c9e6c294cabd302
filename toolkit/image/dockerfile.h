// A Dockerfile that makes the same environment without envkit: the lock's packages by version and
// hash, the same members of the wheels, the runtime compiled in a stage of its own.
#pragma once

#include <string>

#include "base/result.h"
#include "image/build.h"

namespace envkit {

// The same plan gives the same text. kUsage where the base is not Debian, or a wheel is neither on
// an index nor behind a URL.
Result<std::string> RenderDockerfile(const Project& project, const ImagePlan& plan);

}  // namespace envkit
