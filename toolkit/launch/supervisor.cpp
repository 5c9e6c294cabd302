#include "launch/supervisor.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <system_error>

#include "launch/fork_server.h"
#include "launch/supervision.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr std::size_t kTail = 4096;         // bytes of a stream that are kept for the report
constexpr auto kOrphanGrace = 2s;           // for what outlives its rank
constexpr auto kGiveUp = 10s;               // after SIGKILL
constexpr auto kRepeatedInterrupt = 200ms;  // `timeout` and shells send a signal twice at once
constexpr auto kSameSignal = 5s;            // one notice that reaches several nodes

}  // namespace

std::string Supervisor::Prefix(std::size_t index) const {
  if (plan_.prefix.empty()) return "";
  const int local = plan_.ranks[index].local_rank;
  std::string prefix = plan_.prefix;
  const std::pair<const char*, std::string> macros[] = {
      {"role_name", plan_.role},
      {"local_rank", std::to_string(local)},
      {"rank", std::to_string(place_.first_rank + local)},
      {"hostname", HostName()}};
  for (const auto& [name, value] : macros) {
    for (const std::string& macro : {fmt::format("${{{}}}", name), fmt::format("${}", name)}) {
      for (std::size_t at = 0; (at = prefix.find(macro, at)) != std::string::npos;) {
        prefix.replace(at, macro.size(), value);
        at += value.size();
      }
    }
  }
  return prefix;
}

// WRITE_ENDS gets the descriptors that the rank writes to: they can go when it was started.
std::optional<SpawnSpec> Supervisor::PrepareRank(std::size_t index,
                                                 const std::map<std::string, std::string>& env,
                                                 int null_fd, std::vector<Fd>& write_ends,
                                                 std::string& error) {
  SpawnSpec spec;
  const RankPlan& plan = plan_.ranks[index];
  Rank& rank = ranks_[index];
  rank.end.rank = place_.first_rank + plan.local_rank;
  rank.end.gpu = plan.gpu;
  if (plan_.nodes.nodes > 1) rank.end.host = HostName();
  rank.prefix = Prefix(index);
  const fs::path directory = RankLogs(plan_, place_, index);
  std::error_code made;
  fs::create_directories(directory, made);
  fs::remove(directory / "error.json", made);
  for (const RankStream stream : {kOut, kErr}) {
    Channel& channel = rank.channels[stream];
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) {
      error = ErrnoText("cannot make a pipe for the ranks: pipe2");
      return std::nullopt;
    }
    channel.pipe = Fd(ends[0]);
    (stream == kOut ? spec.out : spec.err) = ends[1];
    write_ends.emplace_back(ends[1]);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    const fs::path file = directory / (stream == kOut ? "stdout.log" : "stderr.log");
    channel.log = Fd(open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644));
    if (!channel.log) {
      error = fmt::format("cannot write {}: {}", file.string(), std::strerror(errno));
      return std::nullopt;
    }
  }
  spec.program = plan_.program;
  spec.argv = plan_.argv;
  for (std::string& word : spec.argv) {  // torchrun's only macro
    constexpr std::string_view kMacro = "${local_rank}";
    for (std::size_t at = 0; (at = word.find(kMacro, at)) != std::string::npos;) {
      word.replace(at, kMacro.size(), std::to_string(plan.local_rank));
    }
  }
  spec.env = MergedEnvironment(env, {RankVariables(plan_, place_, index)});
  spec.in = rank.end.rank == 0 ? -1 : null_fd;  // a debugger or a pipe feeds rank 0
  spec.cpus = plan.cpus;
  spec.new_session = true;
  spec.die_with_parent = true;  // the last line of defence, should both of us be killed at once
  spec.mask = link_.rank_mask;
  return spec;
}

bool Supervisor::StartRank(std::size_t index, const SpawnSpec& spec, std::string& error) {
  const Spawned spawned = Spawn(spec);
  if (spawned.pid < 0) {
    error = fmt::format("cannot run {}: {}", plan_.program,
                        spawned.error == ENOEXEC ? "it is neither a program nor a script with #!"
                                                 : std::strerror(spawned.error));
    return false;
  }
  Started(index, spawned.pid);
  return true;
}

void Supervisor::Started(std::size_t index, pid_t pid) {
  Rank& rank = ranks_[index];
  rank.end.pid = pid;
  rank.running = true;
  rank.pidfd = OpenPidfd(pid);
  if (rank.pidfd) Watch(rank.pidfd.get(), EPOLLIN, Tag(Source::kDeath, index));
  for (const RankStream stream : {kOut, kErr}) {
    Watch(rank.channels[stream].pipe.get(), EPOLLIN, Tag(Source::kOutput, index * 2 + stream));
    rank.channels[stream].polled = true;
  }
}

bool Supervisor::StartRanks(std::string& error) {
  const std::map<std::string, std::string> env = OwnEnvironment();
  const Fd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const bool may_fork = ranks_.size() > 1 && NeedsLibrary(plan_.program, "libenvkit_runtime.so");
  std::vector<SpawnSpec> specs;
  std::vector<Fd> write_ends;
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    const auto spec = PrepareRank(i, env, null.get(), write_ends, error);
    if (!spec) return false;
    specs.push_back(*spec);
    if (may_fork) continue;
    if (!StartRank(i, *spec, error)) return false;
    write_ends.clear();
  }
  if (!may_fork) return true;
  const auto pids = CanFork(specs) ? ForkRanks(specs, signals_.get()) : std::vector<pid_t>();
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    if (!pids.empty()) {
      Started(i, pids[i]);
    } else if (!StartRank(i, specs[i], error)) {
      return false;
    }
  }
  return true;
}

void Supervisor::StartAttempt(const Placement& place) {
  place_ = place;
  if (place.attempt > 0) {
    Say(fmt::format("restart   attempt {} of {}: all ranks anew\n", place.attempt + 1,
                    plan_.max_restarts + 1));
  }
  ranks_ = std::vector<Rank>(plan_.ranks.size());
  phase_ = Phase::kRunning;
  deadline_.reset();
  preempted_until_.reset();
  hang_.Begin(ranks_.size(), Clock::now());
  states_.clear();
  states_told_ = false;
  first_failed_.reset();
  headline_.clear();
  stop_reason_.clear();
  oom_before_ = ReadOomCounters();
  std::string error;
  if (StartRanks(error)) return;
  EndAllDescendants();
  NodeReport report;
  report.failed = true;
  report.exit_code = 126;
  report.text = fmt::format("error: {}\n", error);
  report.failed_at_ns = std::chrono::system_clock::now().time_since_epoch().count();
  for (Rank& rank : ranks_) {
    rank.running = false;
    for (Channel& channel : rank.channels) channel.pipe.Close();
    rank.pidfd.Close();
  }
  phase_ = Phase::kWaiting;
  nodes_.Failed();
  nodes_.Over(std::move(report));
}

void Supervisor::HeedNodes() {
  for (auto events = nodes_.Take(); !events.empty(); events = nodes_.Take()) {
    for (NodeEvent& event : events) {
      switch (event.kind) {
        case NodeEvent::Kind::kStart:
          StartAttempt(event.place);
          break;
        case NodeEvent::Kind::kStop:
          if (phase_ != Phase::kRunning) break;
          stop_reason_ = event.text;
          failed_time_ = Clock::now();
          if (hang_.looking()) {
            AbortRanks();
          } else {
            StopRanks(plan_.failure_grace);
          }
          break;
        case NodeEvent::Kind::kHang:
          if (phase_ == Phase::kRunning && hang_.on() && !hang_.looking()) LookForHang();
          break;
        case NodeEvent::Kind::kSignal:
          OnSignal(event.number, true);
          break;
        case NodeEvent::Kind::kSay:
          Say(event.text);
          break;
        case NodeEvent::Kind::kEnd:
          result_ = std::move(event.report);
          break;
      }
    }
  }
}

void Supervisor::OnDeath(Rank& rank) {
  if (!rank.running) return;
  siginfo_t info{};
  if (waitid(P_PID, static_cast<id_t>(rank.end.pid), &info, WEXITED | WNOHANG) != 0 ||
      info.si_pid != rank.end.pid) {
    return;
  }
  rank.running = false;
  rank.ended_at = std::chrono::system_clock::now();
  rank.ended = Clock::now();
  rank.stopped_by_us = phase_ != Phase::kRunning;
  if (info.si_code == CLD_EXITED) {
    rank.end.code = info.si_status;
  } else {
    rank.end.signal = info.si_status;
    rank.end.code = 128 + info.si_status;
  }
  if (rank.pidfd) Unwatch(rank.pidfd.get());
  rank.pidfd.Close();
  if (phase_ != Phase::kRunning || rank.end.code == 0) return;
  if (rank.end.code == kPreempted) {
    // All of them were told to stop; each ends when its part of the checkpoint is written.
    if (!preempted_until_) preempted_until_ = Clock::now() + plan_.grace;
    return;
  }
  Fail(rank);
}

void Supervisor::Fail(const Rank& rank, std::string headline) {
  first_failed_ = IndexOf(rank);
  headline_ = std::move(headline);
  failed_time_ = Clock::now();
  StopRanks(plan_.failure_grace);
  nodes_.Failed();
}

// Everything below us, not only the ranks: their loaders' workers, and what those started.
void Supervisor::StopRanks(Clock::duration grace) {
  phase_ = Phase::kStopping;
  deadline_ = Clock::now() + grace;
  SignalDescendants(SIGTERM);
  SignalDescendants(SIGCONT);  // a stopped process would not see it
}

void Supervisor::KillEverything() {
  if (phase_ != Phase::kKilling) {
    phase_ = Phase::kKilling;
    kill_time_ = Clock::now();
    for (Rank& rank : ranks_) rank.killed = rank.running;
  }
  SignalDescendants(SIGKILL);
}

void Supervisor::OnOutput(std::size_t index, RankStream stream) {
  Rank& rank = ranks_[index];
  Channel& channel = rank.channels[stream];
  if (!channel.pipe) return;
  const ssize_t got = read(channel.pipe.get(), buffer_.data(), buffer_.size());
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) {
    std::string lines;
    channel.cutter.Finish(lines);
    Show(index, stream, lines);
    if (channel.polled) Unwatch(channel.pipe.get());
    channel.polled = false;
    channel.pipe.Close();
    return;
  }
  const std::string_view bytes(buffer_.data(), static_cast<std::size_t>(got));
  hang_.Spoke(index, Clock::now());
  for (std::string_view rest = bytes; !rest.empty() && channel.log;) {
    const ssize_t wrote = write(channel.log.get(), rest.data(), rest.size());
    if (wrote > 0) {
      rest.remove_prefix(static_cast<std::size_t>(wrote));
    } else if (errno != EINTR) {
      const int error = errno;
      channel.log.Close();
      if (!log_error_said_) {
        Message(fmt::format("warning: the logs are incomplete from here on: {}: {}\n",
                            LogFile(rank), std::strerror(error)));
      }
      log_error_said_ = true;
    }
  }
  channel.tail += bytes.substr(bytes.size() - std::min(bytes.size(), kTail));
  if (channel.tail.size() > 4 * kTail) channel.tail.erase(0, channel.tail.size() - kTail);
  if (!plan_.ranks[index].shown[stream]) return;
  if (rank.end.rank == 0 && rank.prefix.empty()) {
    console_.Raw(stream, bytes);
    return;
  }
  std::string lines;
  channel.cutter.Add(bytes, lines);
  Show(index, stream, lines);
}

void Supervisor::Show(std::size_t index, RankStream stream, std::string_view lines) {
  if (!plan_.ranks[index].shown[stream]) return;
  const Rank& rank = ranks_[index];
  const auto now = Clock::now();
  while (!lines.empty()) {
    const std::size_t end = std::min(lines.find('\n'), lines.size());
    folders_[stream].Add(rank.end.rank, rank.prefix, lines.substr(0, end), now);
    lines.remove_prefix(std::min(end + 1, lines.size()));
  }
}

void Supervisor::LetOutFolded(Clock::time_point now) {
  for (const RankStream stream : {kOut, kErr}) console_.Lines(stream, folders_[stream].Take(now));
}

void Supervisor::OnSignals() {
  signalfd_siginfo infos[16];
  ssize_t got = 0;
  while ((got = read(signals_.get(), infos, sizeof infos)) > 0) {
    for (std::size_t i = 0; i < static_cast<std::size_t>(got) / sizeof infos[0]; ++i) {
      OnSignal(static_cast<int>(infos[i].ssi_signo));
    }
  }
}

// To the ranks alone: their loaders' workers must live until the checkpoint is written.
void Supervisor::PassOn(int signal) {
  const bool notice = signal == SIGUSR1 || signal == SIGUSR2;
  std::vector<int> unheard;
  for (const Rank& rank : ranks_) {
    if (!rank.running) continue;
    // A notice kills who has no handler for it, and was not meant to.
    if (notice && !HandlesSignal(rank.end.pid, signal)) {
      unheard.push_back(rank.end.rank);
    } else {
      kill(rank.end.pid, signal);  // not reaped yet, so the number is still its own
    }
  }
  if (!unheard.empty()) {
    Say(fmt::format("{}: {} has no handler for it and was spared\n", SignalName(signal),
                    RankList(unheard)));
  }
}

void Supervisor::OnSignal(int signal, bool from_node) {
  switch (signal) {
    case SIGCHLD:
      ReapOrphans();
      return;
    case SIGTSTP:
      suspended_ = true;
      SignalDescendants(SIGSTOP);
      return;
    case SIGCONT:
      suspended_ = false;
      SignalDescendants(SIGCONT);
      return;
    default:
      break;
  }
  // Slurm tells every node, Kubernetes one: the ranks hear it once either way.
  const auto seen = seen_.find(signal);
  const bool again = seen != seen_.end() && Clock::now() - seen->second < kSameSignal;
  if (plan_.nodes.nodes > 1 && again && (from_node || signal == SIGUSR1 || signal == SIGUSR2)) {
    return;
  }
  seen_[signal] = Clock::now();
  if (!from_node) nodes_.Signalled(signal);
  if (signal == SIGUSR1 || signal == SIGUSR2) {
    PassOn(signal);
    return;
  }
  if (phase_ == Phase::kRunning) {
    stop_signal_ = signal;
    stop_time_ = Clock::now();
    phase_ = Phase::kStopping;
    deadline_ = stop_time_ + plan_.grace;
    PassOn(signal);
    Say(fmt::format("{}{}: ranks have {} to stop{}\n", SignalName(signal),
                    from_node ? " on another node" : "", DurationText(plan_.grace),
                    signal == SIGINT ? "; once more ends them at once" : ""));
  } else if (phase_ == Phase::kWaiting) {
    if (stop_signal_ != 0 && !from_node && !result_) {  // nobody is waited for twice
      result_ = NodeReport{};
      result_->exit_code = 128 + signal;
    }
    stop_signal_ = signal;
    stop_time_ = Clock::now();
  } else if (signal == SIGINT && Clock::now() - stop_time_ > kRepeatedInterrupt) {
    KillEverything();
  }
}

// Reaps what became ours because its parent ended. Ranks are left to their pidfds, which keep the
// order in which they ended.
void Supervisor::ReapOrphans() {
  if (!AnyRunning()) {
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    return;
  }
  for (const pid_t child : ChildrenOf(getpid())) {
    const auto rank = std::find_if(ranks_.begin(), ranks_.end(),
                                   [&](const Rank& r) { return r.running && r.end.pid == child; });
    if (rank == ranks_.end()) {
      waitpid(child, nullptr, WNOHANG);
    } else if (!rank->pidfd) {
      OnDeath(*rank);
    }
  }
}

void Supervisor::Advance() {
  const auto now = Clock::now();
  LetOutFolded(now);
  console_.Tick(now);
  nodes_.Tick(now);
  if (phase_ == Phase::kWaiting) return;
  WatchForHang(now);
  if (preempted_until_ && now >= *preempted_until_ && phase_ == Phase::kRunning) {
    const auto ended = std::find_if(ranks_.begin(), ranks_.end(), [](const Rank& r) {
      return !r.running && r.end.code == kPreempted;
    });
    const auto late =
        std::find_if(ranks_.begin(), ranks_.end(), [](const Rank& r) { return r.running; });
    if (late != ranks_.end()) {
      Fail(*late,
           fmt::format("rank {} (pid {}) still ran {} after rank {} ended as preempted",
                       late->end.rank, late->end.pid, DurationText(plan_.grace), ended->end.rank));
    }
  }
  if (phase_ == Phase::kRunning || phase_ == Phase::kStopping) {
    if (!AnyRunning() && HasChildren()) {
      phase_ = Phase::kOrphans;
      deadline_ = now + std::min<Clock::duration>(kOrphanGrace, plan_.failure_grace);
      SignalDescendants(SIGTERM);
    }
  }
  if (phase_ == Phase::kKilling || (deadline_ && now >= *deadline_)) KillEverything();
  if (phase_ == Phase::kKilling && now - kill_time_ > kGiveUp && left_.empty()) {
    for (const pid_t pid : ChildrenOf(getpid())) {
      std::ifstream comm("/proc/" + std::to_string(pid) + "/comm");
      std::string name;
      std::getline(comm, name);
      left_.push_back(fmt::format("{} (pid {})", name, pid));
    }
  }
  if ((!AnyRunning() && !HasChildren()) || !left_.empty()) AttemptOver();
}

int Supervisor::Timeout() const {
  if (phase_ == Phase::kKilling) return 2;  // what forked meanwhile is found at the next look
  std::optional<Clock::time_point> next = deadline_;
  const auto sooner = [&](Clock::time_point time) { next = next ? std::min(*next, time) : time; };
  if (preempted_until_ && phase_ == Phase::kRunning) sooner(*preempted_until_);
  if (console_.Waiting()) sooner(Clock::now() + 50ms);
  for (const Folder& folder : folders_) {
    if (const auto due = folder.Due()) sooner(*due);
  }
  if (const auto tick = nodes_.NextTick()) sooner(*tick);
  if (hang_.on() && phase_ == Phase::kRunning) {
    // Ours may have been silent for long while others' ranks speak.
    const auto soon = Clock::now() + 50ms;
    sooner(hang_.looking() ? soon : std::max(hang_.NextTick(), soon));
  }
  if (!next) return -1;
  const auto left = std::chrono::ceil<milliseconds>(*next - Clock::now()).count();
  return static_cast<int>(std::clamp<long long>(left, 0, 60'000));
}

// A reader that is slower than the ranks slows them down, as in any pipeline, but never the
// launcher: it stops reading the pipes that lead there. While it ends the ranks, it reads on.
void Supervisor::Throttle() {
  const bool ending = phase_ != Phase::kRunning && phase_ != Phase::kWaiting;
  for (const RankStream stream : {kOut, kErr}) {
    Sink& sink = console_.sink(stream);
    if (ending) sink.Limit(kEndingQueue);
    if (sink.gone() && !console_lost_said_) {
      console_lost_said_ = true;
      Say("warning: nobody reads the output any more; it goes on in the logs\n");
    }
    const bool wait = sink.queued() > 0;
    if (wait != sink_watched_[stream]) {
      sink_watched_[stream] = wait;
      if (wait) {
        Watch(sink.poll_fd(), EPOLLOUT, Tag(Source::kSink, stream));
      } else {
        Unwatch(sink.poll_fd());
      }
    }
    const bool pause = !ending && console_.Congested(stream);
    const bool resume = ending || console_.Relaxed(stream);
    if (!pause && !resume) continue;
    for (std::size_t i = 0; i < ranks_.size(); ++i) {
      Channel& channel = ranks_[i].channels[stream];
      if (!channel.pipe || channel.polled != pause) continue;
      channel.polled = !pause;
      if (pause) {
        Unwatch(channel.pipe.get());
      } else {
        Watch(channel.pipe.get(), EPOLLIN, Tag(Source::kOutput, i * 2 + stream));
      }
    }
  }
}

int Supervisor::Run() {
  epoll_ = Fd(epoll_create1(EPOLL_CLOEXEC));
  signals_ = Fd(signalfd(-1, &link_.watched, SFD_NONBLOCK | SFD_CLOEXEC));
  if (!epoll_ || !signals_) return 1;
  Watch(signals_.get(), EPOLLIN, Tag(Source::kSignal, 0));
  Watch(link_.parent_alive.get(), EPOLLIN, Tag(Source::kParent, 0));
  nodes_.Begin(Clock::now());
  if (nodes_.poll_fd() >= 0) Watch(nodes_.poll_fd(), EPOLLIN, Tag(Source::kNodes, 0));
  std::vector<epoll_event> events(plan_.ranks.size() * 3 + 5);  // all at once: the order is kept
  for (HeedNodes(); !result_; HeedNodes()) {
    const int count =
        epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), Timeout());
    const auto each = [&](Source wanted, auto&& handle) {
      for (int i = 0; i < count; ++i) {
        const std::uint64_t tag = events[static_cast<std::size_t>(i)].data.u64;
        if (static_cast<Source>(tag >> 32) == wanted) handle(tag & 0xffffffffU);
      }
    };
    each(Source::kDeath, [&](std::size_t index) { OnDeath(ranks_[index]); });
    each(Source::kOutput,
         [&](std::size_t id) { OnOutput(id / 2, static_cast<RankStream>(id % 2)); });
    each(Source::kSink,
         [&](std::size_t id) { console_.sink(static_cast<RankStream>(id)).Flush(); });
    each(Source::kSignal, [&](std::size_t) { OnSignals(); });
    each(Source::kNodes, [&](std::size_t) { nodes_.OnReady(Clock::now()); });
    each(Source::kParent, [&](std::size_t) {
      parent_gone_ = true;
      Unwatch(link_.parent_alive.get());
      KillEverything();
      if (!AnyRunning() && !HasChildren()) result_ = NodeReport{};
    });
    Advance();
    Throttle();
  }
  return Finish();
}

int Supervise(const LaunchPlan& plan, HeldPort port, NodeSetup setup, Supervised link) {
  return Supervisor(plan, std::move(port), std::move(setup), std::move(link)).Run();
}

}  // namespace envkit
