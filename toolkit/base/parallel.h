// Independent pieces of work on several threads.
#pragma once

#include <functional>
#include <vector>

#include "base/result.h"

namespace envkit {

using Task = std::function<Result<void>()>;

// Begins the tasks in their order. After a failure no further one is begun; the first is returned.
Result<void> RunParallel(const std::vector<Task>& tasks, int threads);

}  // namespace envkit
