// The end of an attempt and of the job: what is still to be read, whose failure it was, the report.
#include <fmt/format.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "launch/supervision.h"

namespace envkit {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// What the ranks wrote before they ended and we had not read yet.
void Supervisor::Drain() {
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    for (const RankStream stream : {kOut, kErr}) {
      Channel& channel = ranks_[i].channels[stream];
      console_.sink(stream).Limit(kEndingQueue);
      // Only a process that could not be killed keeps a pipe open now.
      for (int reads = 0; channel.pipe && (left_.empty() || reads < 64); ++reads) {
        OnOutput(i, stream);
      }
    }
  }
  LetOutFolded(Clock::time_point::max());
  console_.Tick(Clock::time_point::max());
}

// The ranks are gone; a slow reader may take its time, unless a signal says that nobody waits.
void Supervisor::FlushConsole() {
  while (true) {
    for (const RankStream stream : {kOut, kErr}) console_.sink(stream).Flush();
    Throttle();
    if (console_.sink(kOut).queued() + console_.sink(kErr).queued() == 0 || parent_gone_) return;
    epoll_event event{};
    if (epoll_wait(epoll_.get(), &event, 1, -1) == 1) {
      const auto source = static_cast<Source>(event.data.u64 >> 32);
      if (source == Source::kParent) return;
      signalfd_siginfo info{};
      if (source == Source::kSignal &&
          read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info) &&
          (info.ssi_signo == SIGINT || info.ssi_signo == SIGTERM || info.ssi_signo == SIGHUP)) {
        return;
      }
    }
  }
}

// nullopt: it ended because we told it to.
std::optional<std::chrono::nanoseconds> Supervisor::FailedAt(const Rank& rank) const {
  struct stat info {};
  const fs::path file = Logs(rank) / "error.json";
  const auto ended = rank.ended_at.time_since_epoch();
  if (stat(file.c_str(), &info) == 0) {
    const std::chrono::nanoseconds written =
        std::chrono::seconds(info.st_mtim.tv_sec) + std::chrono::nanoseconds(info.st_mtim.tv_nsec);
    return std::min<std::chrono::nanoseconds>(written, ended);
  }
  if (rank.stopped_by_us) return std::nullopt;
  return ended;
}

// The rank whose end came first. A Python rank may take long to unwind after its exception while
// peers die of the broken connection, so its error file's time counts where that is earlier.
const Rank* Supervisor::RootCause() const {
  if (!first_failed_) return nullptr;
  const Rank* root = &ranks_[*first_failed_];
  if (!headline_.empty()) return root;
  for (const Rank& rank : ranks_) {
    if (rank.end.code == 0 || rank.end.code == kPreempted) continue;
    const auto time = FailedAt(rank);
    if (time && *time < *FailedAt(*root)) root = &rank;
  }
  return root;
}

int Supervisor::CodeWithoutFailure() const {
  bool preempted = false;
  bool other = false;
  for (const Rank& rank : ranks_) {
    preempted |= rank.end.code == kPreempted;
    other |= rank.end.code != 0 && rank.end.code != kPreempted;
  }
  if (other) return stop_signal_ == 0 ? 1 : 128 + stop_signal_;
  return preempted ? kPreempted : 0;
}

std::string Supervisor::LogFile(const Rank& rank) const {
  const fs::path file =
      Logs(rank) / (rank.channels[kErr].tail.empty() ? "stdout.log" : "stderr.log");
  std::error_code error;
  const fs::path near = file.lexically_proximate(fs::current_path(error));
  return near.empty() || *near.begin() == ".." ? file.string() : near.string();
}

FailureReport Supervisor::DescribeFailure(const Rank& root) {
  FailureReport report;
  const OomCounters oom = ReadOomCounters();
  const fs::path error_file = Logs(root) / "error.json";
  report.rank = root.end.rank;
  report.headline = headline_;
  if (headline_.empty()) {
    report.headline = EndText(root.end);
    report.cause = CauseText(root.end, oom_before_, oom, ReadErrorFile(error_file));
    report.out_of_memory = root.end.signal == SIGKILL && oom.cgroup > oom_before_.cgroup;
  }
  if (!states_.empty() && !headline_.empty()) report.cause = HangText();
  report.last = LastLines(root.channels[kErr].tail, 6);
  if (report.last.empty()) report.last = LastLines(root.channels[kOut].tail, 3);
  // What the OOM killer did is known already, and better.
  if (!report.out_of_memory) report.symptom = Explain(root.channels[kErr].tail);
  if (!report.out_of_memory && !report.symptom) report.symptom = Explain(root.channels[kOut].tail);
  for (const Rank& rank : ranks_) {
    if (&rank == &root || !rank.stopped_by_us) continue;
    (rank.killed ? report.killed : report.stopped).push_back(rank.end.rank);
    if (rank.killed) continue;
    report.took = std::max(report.took, std::chrono::ceil<milliseconds>(rank.ended - failed_time_));
  }
  report.grace = plan_.failure_grace;
  report.left = left_;
  report.log = LogFile(root);
  report.exit_code = headline_.empty() ? root.end.code : 1;
  return report;
}

// No process of this attempt is left here.
void Supervisor::AttemptOver() {
  Drain();
  phase_ = Phase::kWaiting;
  NodeReport report;
  if (parent_gone_) {
    result_ = report;
    return;
  }
  if (const Rank* root = RootCause()) {
    const FailureReport failure = DescribeFailure(*root);
    RankEnd end = root->end;
    end.code = failure.exit_code;
    report.failed = true;
    report.exit_code = failure.exit_code;
    report.text = FailureText(failure);
    report.cause = CauseJson(end, failure);
    report.failed_at_ns = FailedAt(*root).value_or(root->ended_at.time_since_epoch()).count();
    if (nodes_.may_restart() && stop_signal_ == 0 && left_.empty()) Message(report.text);
  } else if (stop_reason_.empty()) {
    report.exit_code = CodeWithoutFailure();
  }
  nodes_.Over(std::move(report));
}

int Supervisor::Finish() {
  Outcome outcome;
  outcome.world_size = place_.world_size;
  outcome.attempts = place_.attempt + 1;
  outcome.exit_code = result_->exit_code;
  outcome.cause = result_->cause;
  if (parent_gone_) {
    outcome.exit_code = 128 + SIGKILL;
  } else if (!result_->text.empty()) {
    Message(result_->text);
  } else if (outcome.exit_code == kPreempted) {
    Say(fmt::format("preempted: the ranks ended with exit code {}\n", kPreempted));
  } else if (stop_signal_ != 0) {
    const auto took = std::chrono::ceil<milliseconds>(Clock::now() - stop_time_);
    Say(fmt::format("stopped by {} in {}; no process is left\n", SignalName(stop_signal_),
                    DurationText(took)));
  }
  // Nodes may share the directory.
  const std::string name = place_.node_rank == 0 || plan_.personality != Personality::kEnvkit
                               ? "outcome.json"
                               : fmt::format("outcome-node{}.json", place_.node_rank);
  if (!WriteOutcome(plan_.log_dir / name, outcome)) {
    Message(fmt::format("warning: cannot write {}: {}\n", (plan_.log_dir / name).string(),
                        std::strerror(errno)));
  }
  FlushConsole();
  return outcome.exit_code;
}

}  // namespace envkit
