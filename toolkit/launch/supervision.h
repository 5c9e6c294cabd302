// The supervisor of one launch, as its three files share it: supervisor.cpp runs the ranks,
// supervisor_hang.cpp looks at them when they hang, supervisor_end.cpp says why they ended.
// Whoever wants a launch supervised includes supervisor.h.
#pragma once

#include <sys/epoll.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launch/fold.h"
#include "launch/hang_watch.h"
#include "launch/nodes.h"
#include "launch/output.h"
#include "launch/process.h"
#include "launch/report.h"
#include "launch/supervisor.h"

namespace envkit {

inline constexpr int kPreempted = static_cast<int>(ExitCode::kPreempted);
inline constexpr std::size_t kEndingQueue = 16 << 20;  // what waits for a slow reader meanwhile

enum class Source : std::uint32_t { kDeath, kOutput, kSignal, kParent, kSink, kNodes };

inline std::uint64_t Tag(Source source, std::size_t index) {
  return (static_cast<std::uint64_t>(source) << 32) | index;
}

struct Channel {  // one stream of one rank
  Fd pipe;
  Fd log;
  std::string tail;
  LineCutter cutter{""};
  bool polled = false;
};

struct Rank {
  RankEnd end;
  bool running = false;
  bool stopped_by_us = false;  // ended after we asked it to
  bool killed = false;         // got SIGKILL from us
  Fd pidfd;
  Channel channels[2];
  std::chrono::system_clock::time_point ended_at;  // to compare with the times of files
  std::chrono::steady_clock::time_point ended;
  std::string prefix;  // of its lines, where the user has a template for it
};

enum class Phase {
  kWaiting,  // no ranks: for other nodes, or for what comes next
  kRunning,
  kStopping,  // asked to end; at DEADLINE comes SIGKILL
  kOrphans,   // every rank has ended, and something they started has not
  kKilling,
};

class Supervisor {
 public:
  using Clock = std::chrono::steady_clock;
  Supervisor(const LaunchPlan& plan, HeldPort port, NodeSetup setup, Supervised link)
      : plan_(plan),
        port_(std::move(port)),
        link_(std::move(link)),
        console_(STDOUT_FILENO, STDERR_FILENO),
        folders_{Folder(Colours(kOut)), Folder(Colours(kErr))},
        nodes_(plan, std::move(setup.listener), setup.local, port_.port),
        hang_(plan, link_.rank_mask) {}

  int Run();

 private:
  void Watch(int fd, std::uint32_t events, std::uint64_t tag) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = tag;
    epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
  }
  void Unwatch(int fd) { epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr); }

  bool Colours(RankStream stream) {
    return console_.sink(stream).terminal() && std::getenv("NO_COLOR") == nullptr;
  }
  void HeedNodes();
  void StartAttempt(const Placement& place);
  bool StartRanks(std::string& error);
  std::optional<SpawnSpec> PrepareRank(std::size_t index,
                                       const std::map<std::string, std::string>& env, int null_fd,
                                       std::vector<Fd>& write_ends, std::string& error);
  bool StartRank(std::size_t index, const SpawnSpec& spec, std::string& error);
  void Started(std::size_t index, pid_t pid);
  std::string Prefix(std::size_t index) const;
  void Show(std::size_t index, RankStream stream, std::string_view lines);
  void LetOutFolded(Clock::time_point now);
  void OnDeath(Rank& rank);
  void OnOutput(std::size_t index, RankStream stream);
  void OnSignals();
  void OnSignal(int signal, bool from_node = false);
  void PassOn(int signal);
  void ReapOrphans();
  void Fail(const Rank& rank, std::string headline = "");
  void StopRanks(Clock::duration grace);
  std::vector<WatchedRank> Watched() const;
  void WatchForHang(Clock::time_point now);
  void LookForHang();
  void AbortRanks();
  std::string HangText();
  void KillEverything();
  void Advance();
  void Throttle();
  int Timeout() const;
  bool AnyRunning() const {
    return std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& r) { return r.running; });
  }
  void Drain();
  void FlushConsole();
  void AttemptOver();
  int Finish();
  std::optional<std::chrono::nanoseconds> FailedAt(const Rank& rank) const;
  const Rank* RootCause() const;
  int CodeWithoutFailure() const;
  std::string LogFile(const Rank& rank) const;
  FailureReport DescribeFailure(const Rank& root);
  void Message(const std::string& text) {
    LetOutFolded(Clock::time_point::max());
    console_.Message(text);
  }
  void Say(const std::string& text) {
    if (!plan_.quiet) Message(text);
  }
  std::size_t IndexOf(const Rank& rank) const {
    return static_cast<std::size_t>(&rank - ranks_.data());
  }
  std::filesystem::path Logs(const Rank& rank) const {
    return RankLogs(plan_, place_, IndexOf(rank));
  }

  const LaunchPlan& plan_;
  HeldPort port_;  // kept bound to the end: see port.h
  Supervised link_;
  Console console_;
  Folder folders_[2];
  Nodes nodes_;
  Placement place_;
  std::vector<Rank> ranks_;
  Fd epoll_;
  Fd signals_;
  OomCounters oom_before_;
  Phase phase_ = Phase::kWaiting;
  std::string stop_reason_;                // another node's failure
  std::optional<NodeReport> result_;       // the job's: all is over
  std::map<int, Clock::time_point> seen_;  // signals, by number
  std::optional<Clock::time_point> deadline_;
  std::optional<Clock::time_point> preempted_until_;
  Clock::time_point kill_time_;
  Clock::time_point failed_time_;
  HangWatch hang_;
  std::vector<RankState> states_;  // of all nodes' ranks, when the job hangs
  bool states_told_ = false;
  bool suspended_ = false;                   // by Ctrl-Z: silence says nothing then
  std::optional<std::size_t> first_failed_;  // an index
  std::string headline_;                     // where it is not simply how the rank ended
  int stop_signal_ = 0;
  Clock::time_point stop_time_;
  bool parent_gone_ = false;
  bool console_lost_said_ = false;
  bool log_error_said_ = false;
  bool sink_watched_[2] = {};
  std::vector<std::string> left_;
  std::vector<char> buffer_ = std::vector<char>(64 << 10);
};

}  // namespace envkit
