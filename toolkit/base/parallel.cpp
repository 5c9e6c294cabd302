#include "base/parallel.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <thread>

namespace envkit {

Result<void> RunParallel(const std::vector<Task>& tasks, int threads) {
  std::atomic<std::size_t> next = 0;
  std::mutex mutex;
  std::optional<Error> failure;
  auto work = [&] {
    for (std::size_t index = next++; index < tasks.size(); index = next++) {
      auto done = tasks[index]();
      if (done) continue;
      next = tasks.size();
      const std::lock_guard guard(mutex);
      if (!failure) failure = std::move(done).error();
    }
  };
  std::vector<std::jthread> pool;
  const std::size_t count = std::min<std::size_t>(std::max(threads, 1), tasks.size());
  for (std::size_t index = 0; index < count; ++index) pool.emplace_back(work);
  pool.clear();  // joins
  if (failure) return Unexpected(std::move(*failure));
  return {};
}

}  // namespace envkit
