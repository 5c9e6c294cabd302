#include "launch/supervisor.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "launch/output.h"
#include "launch/process.h"
#include "launch/report.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kPreempted = static_cast<int>(ExitCode::kPreempted);
constexpr std::size_t kTail = 4096;         // bytes of a stream that are kept for the report
constexpr auto kOrphanGrace = 2s;           // for what outlives its rank
constexpr auto kGiveUp = 10s;               // after SIGKILL
constexpr auto kRepeatedInterrupt = 200ms;  // `timeout` and shells send a signal twice at once
constexpr std::size_t kEndingQueue = 16 << 20;

enum class Source : std::uint32_t { kDeath, kOutput, kSignal, kParent, kSink };

std::uint64_t Tag(Source source, std::size_t index) {
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
  Clock::time_point ended;
};

enum class Phase {
  kRunning,
  kStopping,  // asked to end; at DEADLINE comes SIGKILL
  kOrphans,   // every rank has ended, and something they started has not
  kKilling,
};

class Supervisor {
 public:
  Supervisor(const LaunchPlan& plan, HeldPort port, Supervised link)
      : plan_(plan),
        port_(std::move(port)),
        link_(std::move(link)),
        console_(STDOUT_FILENO, STDERR_FILENO),
        ranks_(plan.ranks.size()) {}

  int Run();

 private:
  void Watch(int fd, std::uint32_t events, std::uint64_t tag) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = tag;
    epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
  }
  void Unwatch(int fd) { epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr); }

  bool StartRanks();
  bool StartRank(std::size_t index, const std::map<std::string, std::string>& env, int null_fd);
  void OnDeath(Rank& rank);
  void OnOutput(std::size_t index, Stream stream);
  void OnSignals();
  void OnSignal(int signal);
  void ReapOrphans();
  void Fail(const Rank& rank, std::string headline = "");
  void StopRanks(Clock::duration grace);
  void KillEverything();
  void Advance();
  void Throttle();
  int Timeout() const;
  bool AnyRunning() const {
    return std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& r) { return r.running; });
  }
  void Drain();
  void FlushConsole();
  int Finish();
  const Rank* RootCause() const;
  int CodeWithoutFailure() const;
  std::string LogFile(const Rank& rank) const;
  FailureReport DescribeFailure(const Rank& root);
  void Say(const std::string& text) {
    if (!plan_.quiet) console_.Message(text);
  }

  const LaunchPlan& plan_;
  HeldPort port_;  // kept bound to the end: see port.h
  Supervised link_;
  Console console_;
  std::vector<Rank> ranks_;
  Fd epoll_;
  Fd signals_;
  OomCounters oom_before_;
  Phase phase_ = Phase::kRunning;
  std::optional<Clock::time_point> deadline_;
  std::optional<Clock::time_point> preempted_until_;
  Clock::time_point kill_time_;
  Clock::time_point failed_time_;
  std::optional<int> first_failed_;
  std::string headline_;  // where it is not simply how the rank ended
  int stop_signal_ = 0;
  Clock::time_point stop_time_;
  bool parent_gone_ = false;
  bool console_lost_said_ = false;
  bool log_error_said_ = false;
  bool sink_watched_[2] = {};
  std::vector<std::string> left_;
  std::vector<char> buffer_ = std::vector<char>(64 << 10);
};

bool Supervisor::StartRank(std::size_t index, const std::map<std::string, std::string>& env,
                           int null_fd) {
  const RankPlan& plan = plan_.ranks[index];
  Rank& rank = ranks_[index];
  rank.end.rank = plan.rank;
  Fd write_ends[2];
  for (const Stream stream : {kOut, kErr}) {
    Channel& channel = rank.channels[stream];
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) {
      console_.Message(ErrnoText("error: cannot make a pipe for the ranks: pipe2") + "\n");
      return false;
    }
    channel.pipe = Fd(ends[0]);
    write_ends[stream] = Fd(ends[1]);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    const fs::path file = plan.log_dir / (stream == kOut ? "stdout.log" : "stderr.log");
    channel.log = Fd(open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644));
    if (!channel.log) {
      console_.Message(
          fmt::format("error: cannot write {}: {}\n", file.string(), std::strerror(errno)));
      return false;
    }
    channel.cutter = LineCutter(fmt::format("[{}] ", plan.rank));
  }
  SpawnSpec spec;
  spec.program = plan_.program;
  spec.argv = plan_.argv;
  spec.env =
      MergedEnvironment(env, {plan_.env, {{"MASTER_PORT", std::to_string(port_.port)}}, plan.env});
  spec.in = plan.rank == 0 ? -1 : null_fd;  // a debugger or a pipe feeds rank 0
  spec.out = write_ends[kOut].get();
  spec.err = write_ends[kErr].get();
  spec.new_session = true;
  spec.die_with_parent = true;  // the last line of defence, should both of us be killed at once
  spec.mask = link_.rank_mask;
  const Spawned spawned = Spawn(spec);
  if (spawned.pid < 0) {
    console_.Message(fmt::format("error: cannot run {}: {}\n", plan_.program,
                                 spawned.error == ENOEXEC
                                     ? "it is neither a program nor a script with #!"
                                     : std::strerror(spawned.error)));
    return false;
  }
  rank.end.pid = spawned.pid;
  rank.running = true;
  rank.pidfd = OpenPidfd(spawned.pid);
  if (rank.pidfd) Watch(rank.pidfd.get(), EPOLLIN, Tag(Source::kDeath, index));
  for (const Stream stream : {kOut, kErr}) {
    Watch(rank.channels[stream].pipe.get(), EPOLLIN, Tag(Source::kOutput, index * 2 + stream));
    rank.channels[stream].polled = true;
  }
  return true;
}

bool Supervisor::StartRanks() {
  const std::map<std::string, std::string> env = OwnEnvironment();
  const Fd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    if (!StartRank(i, env, null.get())) return false;
  }
  return true;
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
  first_failed_ = rank.end.rank;
  headline_ = std::move(headline);
  failed_time_ = Clock::now();
  StopRanks(plan_.failure_grace);
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

void Supervisor::OnOutput(std::size_t index, Stream stream) {
  Rank& rank = ranks_[index];
  Channel& channel = rank.channels[stream];
  if (!channel.pipe) return;
  const ssize_t got = read(channel.pipe.get(), buffer_.data(), buffer_.size());
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) {
    std::string lines;
    channel.cutter.Finish(lines);
    console_.Lines(stream, lines);
    if (channel.polled) Unwatch(channel.pipe.get());
    channel.polled = false;
    channel.pipe.Close();
    return;
  }
  const std::string_view bytes(buffer_.data(), static_cast<std::size_t>(got));
  for (std::string_view rest = bytes; !rest.empty() && channel.log;) {
    const ssize_t wrote = write(channel.log.get(), rest.data(), rest.size());
    if (wrote > 0) {
      rest.remove_prefix(static_cast<std::size_t>(wrote));
    } else if (errno != EINTR) {
      const int error = errno;
      channel.log.Close();
      if (!log_error_said_) {
        console_.Message(fmt::format("warning: the logs are incomplete from here on: {}: {}\n",
                                     LogFile(rank), std::strerror(error)));
      }
      log_error_said_ = true;
    }
  }
  channel.tail += bytes.substr(bytes.size() - std::min(bytes.size(), kTail));
  if (channel.tail.size() > 4 * kTail) channel.tail.erase(0, channel.tail.size() - kTail);
  if (rank.end.rank == 0) {
    console_.Raw(stream, bytes);
    return;
  }
  std::string lines;
  channel.cutter.Add(bytes, lines);
  console_.Lines(stream, lines);
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

void Supervisor::OnSignal(int signal) {
  const auto forward = [&](int what) {
    for (const Rank& rank : ranks_) {
      if (rank.running) kill(rank.end.pid, what);  // not reaped yet, so the number is still its own
    }
  };
  switch (signal) {
    case SIGCHLD:
      ReapOrphans();
      return;
    case SIGTSTP:
      SignalDescendants(SIGSTOP);
      return;
    case SIGCONT:
      SignalDescendants(SIGCONT);
      return;
    case SIGUSR1:
    case SIGUSR2:
      forward(signal);
      return;
    default:
      break;
  }
  if (phase_ == Phase::kRunning) {
    // To the ranks alone: their loaders' workers must live until the checkpoint is written.
    stop_signal_ = signal;
    stop_time_ = Clock::now();
    phase_ = Phase::kStopping;
    deadline_ = stop_time_ + plan_.grace;
    forward(signal);
    Say(fmt::format("{}: ranks have {} to stop{}\n", SignalName(signal), DurationText(plan_.grace),
                    signal == SIGINT ? "; once more ends them at once" : ""));
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
  console_.Tick(now);
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
}

int Supervisor::Timeout() const {
  if (phase_ == Phase::kKilling) return 2;  // what forked meanwhile is found at the next look
  std::optional<Clock::time_point> next = deadline_;
  const auto sooner = [&](Clock::time_point time) { next = next ? std::min(*next, time) : time; };
  if (preempted_until_ && phase_ == Phase::kRunning) sooner(*preempted_until_);
  if (console_.Waiting()) sooner(Clock::now() + 50ms);
  if (!next) return -1;
  const auto left = std::chrono::ceil<milliseconds>(*next - Clock::now()).count();
  return static_cast<int>(std::clamp<long long>(left, 0, 60'000));
}

// A reader that is slower than the ranks slows them down, as in any pipeline, but never the
// launcher: it stops reading the pipes that lead there. While it ends the ranks, it reads on.
void Supervisor::Throttle() {
  const bool ending = phase_ != Phase::kRunning;
  for (const Stream stream : {kOut, kErr}) {
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
  oom_before_ = ReadOomCounters();
  if (!StartRanks()) {
    EndAllDescendants();
    FlushConsole();
    return 126;
  }
  std::vector<epoll_event> events(ranks_.size() * 3 + 4);  // all at once: the order is kept
  while ((AnyRunning() || HasChildren()) && left_.empty()) {
    const int count =
        epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), Timeout());
    const auto each = [&](Source wanted, auto&& handle) {
      for (int i = 0; i < count; ++i) {
        const std::uint64_t tag = events[static_cast<std::size_t>(i)].data.u64;
        if (static_cast<Source>(tag >> 32) == wanted) handle(tag & 0xffffffffU);
      }
    };
    each(Source::kDeath, [&](std::size_t index) { OnDeath(ranks_[index]); });
    each(Source::kOutput, [&](std::size_t id) { OnOutput(id / 2, static_cast<Stream>(id % 2)); });
    each(Source::kSink, [&](std::size_t id) { console_.sink(static_cast<Stream>(id)).Flush(); });
    each(Source::kSignal, [&](std::size_t) { OnSignals(); });
    each(Source::kParent, [&](std::size_t) {
      parent_gone_ = true;
      Unwatch(link_.parent_alive.get());
      KillEverything();
    });
    Advance();
    Throttle();
  }
  return Finish();
}

// What the ranks wrote before they ended and we had not read yet.
void Supervisor::Drain() {
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    for (const Stream stream : {kOut, kErr}) {
      Channel& channel = ranks_[i].channels[stream];
      console_.sink(stream).Limit(kEndingQueue);
      // Only a process that could not be killed keeps a pipe open now.
      for (int reads = 0; channel.pipe && (left_.empty() || reads < 64); ++reads) {
        OnOutput(i, stream);
      }
    }
  }
  console_.Tick(Clock::time_point::max());
}

// The ranks are gone; a slow reader may take its time, unless a signal says that nobody waits.
void Supervisor::FlushConsole() {
  while (true) {
    for (const Stream stream : {kOut, kErr}) console_.sink(stream).Flush();
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

// The rank whose end came first. A Python rank may take long to unwind after its exception while
// peers die of the broken connection, so its error file's time counts where that is earlier.
const Rank* Supervisor::RootCause() const {
  if (!first_failed_) return nullptr;
  const Rank* root = &ranks_[static_cast<std::size_t>(*first_failed_)];
  if (!headline_.empty()) return root;
  const auto failed_at = [&](const Rank& rank) -> std::optional<std::chrono::nanoseconds> {
    struct stat info {};
    const fs::path file =
        plan_.ranks[static_cast<std::size_t>(rank.end.rank)].log_dir / "error.json";
    const auto ended = rank.ended_at.time_since_epoch();
    if (stat(file.c_str(), &info) == 0) {
      const std::chrono::nanoseconds written = std::chrono::seconds(info.st_mtim.tv_sec) +
                                               std::chrono::nanoseconds(info.st_mtim.tv_nsec);
      return std::min<std::chrono::nanoseconds>(written, ended);
    }
    if (rank.stopped_by_us) return std::nullopt;
    return ended;
  };
  for (const Rank& rank : ranks_) {
    if (rank.end.code == 0 || rank.end.code == kPreempted) continue;
    const auto time = failed_at(rank);
    if (time && *time < *failed_at(*root)) root = &rank;
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
  if (other) return 128 + stop_signal_;
  return preempted ? kPreempted : 0;
}

std::string Supervisor::LogFile(const Rank& rank) const {
  const fs::path& directory = plan_.ranks[static_cast<std::size_t>(rank.end.rank)].log_dir;
  const fs::path file =
      directory / (rank.channels[kErr].tail.empty() ? "stdout.log" : "stderr.log");
  std::error_code error;
  const fs::path near = file.lexically_proximate(fs::current_path(error));
  return near.empty() || *near.begin() == ".." ? file.string() : near.string();
}

FailureReport Supervisor::DescribeFailure(const Rank& root) {
  FailureReport report;
  const OomCounters oom = ReadOomCounters();
  const fs::path error_file =
      plan_.ranks[static_cast<std::size_t>(root.end.rank)].log_dir / "error.json";
  report.rank = root.end.rank;
  report.headline = headline_;
  if (headline_.empty()) {
    report.headline = EndText(root.end, plan_.on_gpus);
    report.cause = CauseText(root.end, oom_before_, oom, ReadErrorFile(error_file));
    report.out_of_memory = root.end.signal == SIGKILL && oom.cgroup > oom_before_.cgroup;
  }
  report.last = LastLines(root.channels[kErr].tail, 6);
  if (report.last.empty()) report.last = LastLines(root.channels[kOut].tail, 3);
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

int Supervisor::Finish() {
  Drain();
  Outcome outcome;
  outcome.world_size = static_cast<int>(ranks_.size());
  std::string text;
  if (const Rank* root = RootCause(); root != nullptr && !parent_gone_) {
    const FailureReport report = DescribeFailure(*root);
    outcome.exit_code = report.exit_code;
    outcome.root_cause = root->end;
    outcome.root_cause->code = report.exit_code;
    outcome.text = report.headline;
    outcome.cause = report.cause;
    text = FailureText(report);
    console_.Message(text);
  } else if (parent_gone_) {
    outcome.exit_code = 128 + SIGKILL;
  } else {
    outcome.exit_code = CodeWithoutFailure();
    const auto took = std::chrono::ceil<milliseconds>(Clock::now() - stop_time_);
    if (outcome.exit_code == kPreempted) {
      Say(fmt::format("preempted: the ranks ended with exit code {}\n", kPreempted));
    } else if (stop_signal_ != 0) {
      Say(fmt::format("stopped by {} in {}; no process is left\n", SignalName(stop_signal_),
                      DurationText(took)));
    }
  }
  if (!WriteOutcome(plan_.log_dir, outcome)) {
    console_.Message(fmt::format("warning: cannot write {}: {}\n",
                                 (plan_.log_dir / "outcome.json").string(), std::strerror(errno)));
  }
  FlushConsole();
  return outcome.exit_code;
}

}  // namespace

int Supervise(const LaunchPlan& plan, HeldPort port, Supervised link) {
  return Supervisor(plan, std::move(port), std::move(link)).Run();
}

}  // namespace envkit
