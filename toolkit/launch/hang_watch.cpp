#include "launch/hang_watch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>

#include "launch/net.h"
#include "launch/process.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

constexpr auto kStackTime = 20s;  // for debuggers to look at ranks that hang
constexpr auto kRecordTime = 1s;  // for flight recorders to write
constexpr std::size_t kLargestRecord = 64 << 20;

struct ProcessStat {
  char state = '?';
  long ticks = -1;  // of the CPU, in user and kernel mode
};

ProcessStat StatOf(pid_t pid) {
  std::ifstream in(fmt::format("/proc/{}/stat", pid));
  std::string text;
  std::getline(in, text);
  ProcessStat stat;
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return stat;
  std::istringstream fields(text.substr(name_end + 1));
  std::string skipped;
  long user = 0, system = 0;
  fields >> stat.state;
  for (int i = 0; i < 10; ++i) fields >> skipped;
  if (fields >> user >> system) stat.ticks = user + system;
  return stat;
}

std::string ReadBytes(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (text.size() > kLargestRecord) text.clear();
  return text;
}

}  // namespace

fs::path FlightRecords(const LaunchPlan& plan, const Placement& place) {
  return plan.log_dir / fmt::format("attempt_{}", place.attempt) / "flight_";
}

void HangWatch::Begin(std::size_t ranks, Clock::time_point now) {
  spoke_.assign(ranks, now);
  last_ = began_ = now;
  look_from_.reset();
  look_until_.reset();
  sampled_ = {};
  ticks_.clear();
  cores_.assign(ranks, -1);
  letters_.assign(ranks, '?');
  debuggers_.clear();
}

HangWatch::Clock::time_point HangWatch::NextTick() const {
  const auto half = last_ + plan_.hang_timeout / 2;
  return sampled_ < last_ ? half : last_ + plan_.hang_timeout;
}

void HangWatch::Tick(const std::vector<WatchedRank>& ranks, Clock::time_point now) {
  if (!on() || looking()) return;
  if (sampled_ < last_ && now - last_ >= plan_.hang_timeout / 2) {
    sampled_ = now;
    ticks_.clear();
    for (const WatchedRank& rank : ranks) {
      ticks_.push_back(rank.pid == 0 ? -1 : StatOf(rank.pid).ticks);
    }
  }
  if (now - last_ < plan_.hang_timeout) return;
  // A trainer that says nothing may still write down its steps.
  const char* named = std::getenv("ENVKIT_RUN_DIR");
  const fs::path run = !plan_.new_run_directory.empty() ? plan_.new_run_directory
                       : named != nullptr               ? fs::path(named)
                                                        : fs::path();
  struct stat info {};
  if (run.empty() || stat((run / "metrics.jsonl").c_str(), &info) != 0) return;
  const auto age = std::chrono::system_clock::now() -
                   std::chrono::system_clock::from_time_t(info.st_mtim.tv_sec);
  if (age < plan_.hang_timeout) {
    last_ = now - std::max(std::chrono::duration_cast<Clock::duration>(age), Clock::duration(0));
  }
}

void HangWatch::Look(const std::vector<WatchedRank>& ranks, Clock::time_point now) {
  look_from_ = look_until_ = now;
  const double window = std::chrono::duration<double>(now - sampled_).count();
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    if (ranks[i].pid == 0) continue;
    const auto [letter, ticks] = StatOf(ranks[i].pid);
    letters_[i] = letter;
    if (i < ticks_.size() && ticks_[i] >= 0 && ticks >= 0 && window > 0) {
      cores_[i] = static_cast<double>(ticks - ticks_[i]) /
                  static_cast<double>(sysconf(_SC_CLK_TCK)) / window;
    }
    // NCCL's watchdog waits at a pipe; where there is none, nothing happens.
    const std::string pipe =
        (ranks[i].logs.parent_path() / fmt::format("flight_{}.pipe", ranks[i].rank)).string();
    const Fd fd(open(pipe.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    if (fd && write(fd.get(), "1\n", 2) == 2) look_until_ = now + kRecordTime;
  }
  const auto env = OwnEnvironment();
  const auto path = env.find("PATH");
  const std::string search = path == env.end() ? "/usr/bin:/bin" : path->second;
  const FoundProgram gdb = FindProgram("gdb", search);
  const FoundProgram eu_stack = FindProgram("eu-stack", search);
  if (gdb.error != 0 && eu_stack.error != 0) return;
  const Fd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  for (const WatchedRank& rank : ranks) {
    if (rank.pid == 0) continue;
    const fs::path file = rank.logs / "stack.txt";
    const Fd out(open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    const std::string pid = std::to_string(rank.pid);
    SpawnSpec spec;
    spec.program = eu_stack.error == 0 ? eu_stack.path : gdb.path;
    spec.argv = {"gdb", "-p", pid, "-batch", "-ex", "thread apply all backtrace"};
    if (eu_stack.error == 0) spec.argv = {"eu-stack", "-p", pid};
    spec.env = MergedEnvironment(env, {});
    spec.in = null.get();
    spec.out = spec.err = out.get();
    spec.new_session = spec.die_with_parent = true;
    spec.mask = mask_;
    const pid_t debugger = out ? Spawn(spec).pid : -1;
    if (debugger <= 0) continue;
    debuggers_.push_back(debugger);
    look_until_ = now + kStackTime;
  }
}

void HangWatch::EndLook() {
  const std::vector<pid_t> children =
      ChildrenOf(getpid());  // those that ended may be others by now
  for (const pid_t debugger : debuggers_) {
    if (std::find(children.begin(), children.end(), debugger) == children.end()) continue;
    kill(debugger, SIGKILL);
    // Only now are the ranks free.
    for (int tries = 0; tries < 200 && waitpid(debugger, nullptr, WNOHANG) == 0; ++tries) {
      usleep(5000);
    }
  }
  debuggers_.clear();
}

bool HangWatch::LookedEnough(long children, long ranks, Clock::time_point now) const {
  if (now >= *look_until_) return true;
  return children <= ranks && now >= std::min(*look_until_, *look_from_ + kRecordTime);
}

std::vector<RankState> HangWatch::States(const std::vector<WatchedRank>& ranks,
                                         Clock::time_point now) const {
  std::vector<RankState> states;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    const WatchedRank& rank = ranks[i];
    if (rank.pid == 0) continue;
    RankState state;
    state.rank = rank.rank;
    state.pid = rank.pid;
    if (plan_.nodes.nodes > 1) state.host = HostName();
    state.state = letters_[i];
    state.silent_s = std::chrono::duration<double>(now - spoke_[i]).count();
    state.cpu = cores_[i];
    ReadFlightRecord(ReadBytes(rank.logs.parent_path() / fmt::format("flight_{}", rank.rank)),
                     state);
    ReadNativeTrace(ReadBytes(rank.logs / "stack.txt"), state);
    states.push_back(std::move(state));
  }
  return states;
}

}  // namespace envkit
