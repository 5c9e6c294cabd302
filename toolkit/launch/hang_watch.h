// The ranks of this node as seen by who waits for them: when each last spoke, and, once the job is
// taken to hang, what each is doing. The supervisor says when; nothing here ends anything.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "launch/hang.h"
#include "launch/plan.h"

namespace envkit {

struct WatchedRank {
  int rank = 0;
  pid_t pid = 0;  // 0: it has ended
  std::filesystem::path logs;
};

class HangWatch {
 public:
  using Clock = std::chrono::steady_clock;
  HangWatch(const LaunchPlan& plan, const sigset_t& rank_mask) : plan_(plan), mask_(rank_mask) {}

  bool on() const { return plan_.hang_timeout.count() > 0; }
  void Begin(std::size_t ranks, Clock::time_point now);  // of an attempt
  void Spoke(std::size_t index, Clock::time_point now) { spoke_[index] = last_ = now; }
  void Excuse(Clock::time_point now) { last_ = now; }
  // The last sign of life of this node's ranks: their output, or a record of their steps.
  Clock::time_point last() const { return last_; }

  // Half way to the timeout the CPU times are noted; at the timeout the record of the steps counts
  // as a sign of life. When to call it next.
  void Tick(const std::vector<WatchedRank>& ranks, Clock::time_point now);
  Clock::time_point NextTick() const;

  // Asks flight recorders and debuggers. Over when these are done, or their time is up.
  void Look(const std::vector<WatchedRank>& ranks, Clock::time_point now);
  bool looking() const { return look_until_.has_value(); }
  bool LookedEnough(long children, long ranks, Clock::time_point now) const;
  // Debuggers that are not done would keep the ranks from dying of what is sent to them.
  void EndLook();
  std::vector<RankState> States(const std::vector<WatchedRank>& ranks, Clock::time_point now) const;

 private:
  const LaunchPlan& plan_;
  sigset_t mask_;
  std::vector<Clock::time_point> spoke_;
  Clock::time_point last_, began_;
  std::optional<Clock::time_point> look_from_, look_until_;
  Clock::time_point sampled_;
  std::vector<long> ticks_;    // of the CPU, by rank, at SAMPLED
  std::vector<double> cores_;  // that each used from then to the look
  std::vector<pid_t> debuggers_;
  std::vector<char> letters_;  // each one's state before debuggers stopped it
};

// Where a rank's flight recorder writes when it is asked, before the rank's number.
std::filesystem::path FlightRecords(const LaunchPlan& plan, const Placement& place);

}  // namespace envkit
