// Independent pieces of work on several threads, and such that wait for one another.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "base/result.h"

namespace envkit {

using Task = std::function<Result<void>()>;

// A task, and the steps (by their places in the same list) that have to be done before it begins.
struct Step {
  Task run;
  std::vector<std::size_t> after = {};
};

// Whenever a thread is free, it begins the first step of the list that waits for nothing any more.
// After a failure no further one is begun; the first is returned. Steps that wait for each other
// are an error.
Result<void> RunSteps(const std::vector<Step>& steps, int threads);
Result<void> RunParallel(const std::vector<Task>& tasks, int threads);

}  // namespace envkit
