// `--init`: one program with an init above it, as `docker run --init` has it. Signals go to the
// program, orphans are reaped, and what it leaves running ends with it.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace envkit {

// The program's exit code (128 + signal where one ended it); 127 where it does not exist and 126
// where it cannot be executed, as in a shell.
Result<int> RunAsInit(const std::vector<std::string>& program);

}  // namespace envkit
