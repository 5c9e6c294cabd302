#include "base/parallel.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace envkit {
namespace {

struct Log {
  std::mutex mutex;
  std::vector<std::size_t> done;

  Task Writes(std::size_t index) {
    return [this, index]() -> Result<void> {
      const std::lock_guard guard(mutex);
      done.push_back(index);
      return {};
    };
  }
};

TEST_CASE("steps begin after those that they wait for, and each runs once") {
  std::mt19937 random(20261129);
  for (int round = 0; round < 200; ++round) {
    Log log;
    const std::size_t count = 1 + random() % 20;
    // Step i may wait for any that comes before it in a shuffled order.
    std::vector<std::size_t> order(count);
    for (std::size_t i = 0; i < count; ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), random);
    std::vector<Step> steps(count);
    for (std::size_t at = 0; at < count; ++at) {
      steps[order[at]].run = log.Writes(order[at]);
      for (std::size_t before = 0; before < at; ++before) {
        if (random() % 4 == 0) steps[order[at]].after.push_back(order[before]);
      }
    }
    REQUIRE(RunSteps(steps, 1 + static_cast<int>(random() % 5)));
    REQUIRE(log.done.size() == count);
    std::vector<std::size_t> place(count, count);
    for (std::size_t at = 0; at < count; ++at) place[log.done[at]] = at;
    for (std::size_t i = 0; i < count; ++i) {
      REQUIRE(place[i] < count);
      for (const std::size_t before : steps[i].after) CHECK(place[before] < place[i]);
    }
  }
}

TEST_CASE("one thread takes what is ready in the order of the list") {
  Log log;
  std::vector<Step> steps;
  for (std::size_t i = 0; i < 5; ++i) steps.push_back({log.Writes(i)});
  steps[0].after = {3};
  steps[1].after = {0};
  REQUIRE(RunSteps(steps, 1));
  CHECK(log.done == std::vector<std::size_t>{2, 3, 0, 1, 4});
}

TEST_CASE("a step that waits does not keep a thread") {
  // Two threads: were one of them kept by step 1, steps 0 and 2 could not meet.
  std::atomic<int> met = 0;
  const Task meet = [&]() -> Result<void> {
    ++met;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (met < 2) {
      if (std::chrono::steady_clock::now() > deadline) return Fail("nobody else came");
      std::this_thread::yield();
    }
    return {};
  };
  CHECK(RunSteps({{meet}, {[]() -> Result<void> { return {}; }, {0}}, {meet}}, 2));
}

TEST_CASE("after a failure nothing more is begun, and the first is returned") {
  Log log;
  const Task fails = []() -> Result<void> { return Fail("the disk is full"); };
  const auto done =
      RunSteps({{log.Writes(0)}, {fails, {0}}, {log.Writes(2), {1}}, {log.Writes(3)}}, 1);
  REQUIRE_FALSE(done);
  CHECK(done.error().what == "the disk is full");
  CHECK(log.done == std::vector<std::size_t>{0});
  CHECK_FALSE(RunParallel({fails, log.Writes(1)}, 1));
  CHECK(log.done.size() == 1);
}

TEST_CASE("steps that wait for each other end with an error") {
  Log log;
  const auto done = RunSteps({{log.Writes(0), {1}}, {log.Writes(1), {0}}, {log.Writes(2)}}, 3);
  REQUIRE_FALSE(done);
  CHECK(done.error().what == "steps of a job wait for each other");
  CHECK(log.done == std::vector<std::size_t>{2});
}

TEST_CASE("nothing to do is done") {
  CHECK(RunSteps({}, 4));
  CHECK(RunParallel({}, 0));
}

}  // namespace
}  // namespace envkit
