#include "base/parallel.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

namespace envkit {

Result<void> RunSteps(const std::vector<Step>& steps, int threads) {
  std::mutex mutex;
  std::condition_variable changed;
  std::optional<Error> failure;
  std::set<std::size_t> ready;
  std::vector<std::size_t> waits_for(steps.size());
  std::vector<std::vector<std::size_t>> followers(steps.size());
  std::size_t left = steps.size();
  std::size_t running = 0;
  for (std::size_t index = 0; index < steps.size(); ++index) {
    waits_for[index] = steps[index].after.size();
    if (waits_for[index] == 0) ready.insert(index);
    for (const std::size_t before : steps[index].after) followers.at(before).push_back(index);
  }
  const auto work = [&] {
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [&] { return failure || !ready.empty() || running == 0; });
      if (failure || ready.empty()) return;
      const std::size_t index = *ready.begin();
      ready.erase(ready.begin());
      ++running;
      lock.unlock();
      auto done = steps[index].run();
      lock.lock();
      --running;
      --left;
      if (!done && !failure) failure = std::move(done).error();
      for (const std::size_t follower : followers[index]) {
        if (--waits_for[follower] == 0) ready.insert(follower);
      }
      changed.notify_all();
    }
  };
  {
    std::vector<std::jthread> pool;
    const std::size_t count = std::min<std::size_t>(std::max(threads, 1), steps.size());
    for (std::size_t index = 0; index < count; ++index) pool.emplace_back(work);
  }
  if (failure) return Unexpected(std::move(*failure));
  if (left > 0) return Fail("steps of a job wait for each other");
  return {};
}

Result<void> RunParallel(const std::vector<Task>& tasks, int threads) {
  std::vector<Step> steps;
  steps.reserve(tasks.size());
  for (const Task& task : tasks) steps.push_back({task});
  return RunSteps(steps, threads);
}

}  // namespace envkit
