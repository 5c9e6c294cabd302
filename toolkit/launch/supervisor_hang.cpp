// When no rank says anything any more.
#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "launch/supervision.h"

namespace envkit {

using Clock = std::chrono::steady_clock;

std::vector<WatchedRank> Supervisor::Watched() const {
  std::vector<WatchedRank> watched;
  for (const Rank& rank : ranks_) {
    watched.push_back({rank.end.rank, rank.running ? rank.end.pid : 0, Logs(rank)});
  }
  return watched;
}

// Every node watches its own ranks; node 0 hears when each last spoke and says that the job hangs,
// since most nodes' ranks are silent even when all is well.
void Supervisor::WatchForHang(Clock::time_point now) {
  if (!hang_.on() || phase_ != Phase::kRunning) return;
  if (suspended_) hang_.Excuse(now);
  nodes_.Spoke(hang_.last());
  if (!hang_.looking()) {
    hang_.Tick(Watched(), now);
    nodes_.Spoke(hang_.last());
    if (place_.node_rank != 0 || now - nodes_.LastSpoke() < plan_.hang_timeout) return;
    nodes_.Hangs();
    LookForHang();
  }
  const long running =
      std::count_if(ranks_.begin(), ranks_.end(), [](const Rank& r) { return r.running; });
  const long children = static_cast<long>(ChildrenOf(getpid()).size());
  if (running == 0 || !hang_.LookedEnough(children, running, now)) return;
  if (!states_told_) {
    states_told_ = true;
    states_ = hang_.States(Watched(), now);
    nlohmann::json told = nlohmann::json::array();
    for (const RankState& state : states_) told.push_back(StateJson(state));
    nodes_.TellStates(told.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), now);
  }
  if (place_.node_rank != 0 || !nodes_.AllStatesToldBy(now)) return;
  for (const std::string& others : nodes_.TakeStates()) {
    const auto list = nlohmann::json::parse(others, nullptr, false);
    if (!list.is_array()) continue;
    for (const auto& one : list) states_.push_back(ReadState(one));
  }
  const auto rank =
      std::find_if(ranks_.begin(), ranks_.end(), [](const Rank& r) { return r.running; });
  first_failed_ = IndexOf(*rank);
  headline_ = fmt::format("the job hangs: no rank has printed anything for {}",
                          DurationText(plan_.hang_timeout));
  failed_time_ = now;
  AbortRanks();
  nodes_.Failed();
}

void Supervisor::LookForHang() {
  Say(fmt::format("no rank has printed anything for {}: taking their stacks\n",
                  DurationText(plan_.hang_timeout)));
  hang_.Look(Watched(), Clock::now());
}

// SIGABRT, of which Python ranks print their stacks.
void Supervisor::AbortRanks() {
  hang_.EndLook();
  phase_ = Phase::kStopping;
  deadline_ = Clock::now() + plan_.failure_grace;
  for (const Rank& each : ranks_) {
    if (!each.running) continue;
    const rlimit none{0, 0};  // a trace is wanted, and no core of the size of the model
    prlimit(each.end.pid, RLIMIT_CORE, &none, nullptr);
    kill(each.end.pid, SIGABRT);
    kill(each.end.pid, SIGCONT);
  }
}

// Here Python's traces are written, of this node's ranks.
std::string Supervisor::HangText() {
  for (RankState& state : states_) {
    const auto own = std::find_if(ranks_.begin(), ranks_.end(), [&](const Rank& r) {
      return r.end.rank == state.rank && r.end.pid == state.pid;
    });
    if (own != ranks_.end()) ReadPythonTrace(own->channels[kErr].tail, state);
  }
  const std::string stacks = fmt::format("each rank's stderr.log (Python) and stack.txt in {}",
                                         Logs(ranks_.front()).parent_path().string());
  const std::string lagging = Lagging(states_);
  return lagging.empty() ? "see " + stacks : fmt::format("{}\n  stacks  {}", lagging, stacks);
}

}  // namespace envkit
