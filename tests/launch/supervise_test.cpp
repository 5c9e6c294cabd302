// The real launcher with real ranks: rank_program does as it is told.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>
#include <thread>
#include <vector>

#include "base/scratch.h"
#include "launch/plan.h"
#include "launch/port.h"
#include "launch/process.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using Words = std::vector<std::string>;

// Ranks that are started singly, or, for the test launch_forked, forked from one process.
std::string RankProgram() {
  return std::getenv("ENVKIT_TEST_FORKED") != nullptr ? ENVKIT_TEST_FORKED_RANK : ENVKIT_TEST_RANK;
}

// Far more than any of it takes, and less than the ranks' sleep=1000.
constexpr auto kLimit = 30s;

template <class Condition>
bool Soon(Condition condition) {
  for (const auto end = Clock::now() + kLimit; Clock::now() < end;) {
    if (condition()) return true;
    std::this_thread::sleep_for(5ms);
  }
  return condition();
}

// One launch. Its working directory is a scratch directory of its own, whose name in the
// environment marks every process that it starts, whoever the parent is by now.
class Job {
 public:
  Job() : here_(fs::canonical(scratch_.path())) {}
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;
  ~Job() {
    for (const pid_t process : Processes()) kill(process, SIGKILL);
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
  }

  // OPTIONS of the launcher, then the ranks' steps.
  void Start(const Words& options, const Words& steps, std::string program = RankProgram()) {
    Words words{ENVKIT_TEST_LAUNCH, "--log-dir", "log"};
    words.insert(words.end(), options.begin(), options.end());
    words.insert(words.end(), {"--", std::move(program)});
    words.insert(words.end(), steps.begin(), steps.end());
    if (!fs::exists(here_ / "in")) REQUIRE(WriteFileAtomic(here_ / "in", ""));
    const Words env = MergedEnvironment(
        OwnEnvironment(), {{{"ENVKIT_TEST_JOB", here_}, {"CUDA_VISIBLE_DEVICES", ""}}});
    SpawnSpec spec;
    spec.program = ENVKIT_TEST_LAUNCH;
    spec.argv = words;
    spec.env = env;
    sigemptyset(&spec.mask);
    const Fd in(open((here_ / "in").c_str(), O_RDONLY | O_CLOEXEC));
    const Fd out(open((here_ / "out").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    const Fd err(open((here_ / "err").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    spec.in = in.get();
    spec.out = out.get();
    spec.err = err.get();
    // What a shell ignored for a job in the background, the launcher would leave alone too.
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    const fs::path before = fs::current_path();
    fs::current_path(here_);
    pid_ = Spawn(spec).pid;
    fs::current_path(before);
    REQUIRE(pid_ > 0);
  }

  // The launcher's exit code, 128 + signal where one ended it; -1: it does not end.
  int Wait() {
    int status = 0;
    if (!Soon([&] { return waitpid(pid_, &status, WNOHANG) != 0; })) return -1;
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  int Run(const Words& options, const Words& steps) {
    Start(options, steps);
    return Wait();
  }

  // All that live, the launcher's two included.
  std::vector<pid_t> Processes() const {
    const std::string mark = "ENVKIT_TEST_JOB=" + here_.string();
    std::vector<pid_t> found;
    for (const auto& entry : fs::directory_iterator("/proc")) {
      const int pid = std::atoi(entry.path().filename().c_str());
      if (pid <= 0) continue;
      const std::string env = ReadFile(entry.path() / "environ").value_or("");  // a zombie has none
      if (env.find(mark) != std::string::npos) found.push_back(pid);
    }
    return found;
  }
  bool Grows(std::size_t count) const {
    return Soon([&] { return Processes().size() == count; });
  }
  bool NothingLeft() const { return Processes().empty(); }
  bool NothingLeftSoon() const {
    return Soon([&] { return NothingLeft(); });
  }

  pid_t launcher() const { return pid_; }
  pid_t Supervisor() const {
    const auto children = ChildrenOf(pid_);
    return children.empty() ? -1 : children.front();
  }
  std::string Out() const { return Read("out"); }
  std::string Err() const { return Read("err"); }
  // Without what differs from run to run.
  std::string Report() const {
    const std::string text = std::regex_replace(Err(), std::regex("pid [0-9]+"), "pid P");
    return std::regex_replace(text, std::regex("in [0-9.]+ m?s"), "in T");
  }
  std::string Read(const std::string& file) const { return ReadFile(here_ / file).value_or(""); }
  nlohmann::json Outcome() const {
    return nlohmann::json::parse(Read("log/outcome.json"), nullptr, false);
  }
  std::string Path(const std::string& name) const { return here_ / name; }
  void Touch(const std::string& name) const { REQUIRE(WriteFileAtomic(here_ / name, "")); }
  bool Exists(const std::string& name) const {
    return Soon([&] { return fs::exists(here_ / name); });
  }

 private:
  Scratch scratch_;
  fs::path here_;
  pid_t pid_ = -1;
};

Words Lines(const std::string& text) {
  Words lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

// A free one, outside of the range from which the kernel gives ports to those that ask for any.
int FreePort() {
  for (int i = 0; i < 1000; ++i) {
    const int port = 29'000 + (getpid() + i) % 1000;
    if (HoldPort(port)) return port;
  }
  return 0;
}

}  // namespace

TEST_CASE("every rank gets its place in the job, a session of its own and our signal mask") {
  Job job;
  REQUIRE(job.Run({"--processes", "3", "--quiet"}, {"env"}) == 0);
  const auto rank = [&](int k) {
    return nlohmann::json::parse(job.Read("log/attempt_0/" + std::to_string(k) + "/stdout.log"),
                                 nullptr, false);
  };
  for (int k = 0; k < 3; ++k) {
    CAPTURE(k);
    const auto env = rank(k);
    REQUIRE(env.is_object());
    CHECK(env["RANK"] == std::to_string(k));
    CHECK(env["LOCAL_RANK"] == std::to_string(k));
    CHECK(env["WORLD_SIZE"] == "3");
    CHECK(env["MASTER_ADDR"] == "127.0.0.1");
    CHECK(env["MASTER_PORT"] == rank(0)["MASTER_PORT"]);
    CHECK(env["MASTER_PORT"] != "0");
    CHECK(env["session"] == env["pid"]);
    CHECK_FALSE(env.contains("blocked"));
  }
  CHECK(job.Err().empty());
  CHECK(job.Outcome() ==
        nlohmann::json{{"exit_code", 0}, {"world_size", 3}, {"attempts", 1}, {"root_cause", {}}});
}

TEST_CASE("rank 0 speaks as it is, the others with their number; all of it is in the logs") {
  Job job;
  REQUIRE(job.Run({"--processes", "2"},
                  {"0:print=zero", "1:print=one", "1:error=oops", "1:part=end"}) == 0);
  Words lines = Lines(job.Out());
  std::sort(lines.begin(), lines.end());
  CHECK(lines == Words{"[1] end", "[1] one", "zero"});
  CHECK(job.Err() == "[1] oops\n");
  CHECK(job.Read("log/attempt_0/0/stdout.log") == "zero\n");
  CHECK(job.Read("log/attempt_0/1/stdout.log") == "one\nend");
  CHECK(job.Read("log/attempt_0/1/stderr.log") == "oops\n");
}

TEST_CASE("nothing of a large output is lost or out of order") {
  Job job;
  REQUIRE(job.Run({"--processes", "2"}, {"flood=50000"}) == 0);
  long next[2] = {};
  for (const auto& line : Lines(job.Out())) {
    const bool other = line.starts_with("[1] ");
    const std::string wanted = (other ? "[1] line 1 " : "line 0 ") + std::to_string(next[other]);
    if (line == wanted) ++next[other];
  }
  CHECK(next[0] == 50'000);
  CHECK(next[1] == 50'000);
}

TEST_CASE("standard input is rank 0's") {
  Job job;
  REQUIRE(WriteFileAtomic(job.Path("in"), "typed\n"));
  REQUIRE(job.Run({"--processes", "2"}, {"cat"}) == 0);
  CHECK(job.Out() == "typed\n");
}

TEST_CASE("a rank's exit code is the launcher's, and the others end with it") {
  Job job;
  const auto start = Clock::now();
  CHECK(job.Run({"--processes", "3", "--grace", "600"},
                {"1:error=broken", "1:exit=7", "sleep=1000"}) == 7);
  CHECK(Clock::now() - start < kLimit);
  CHECK(job.NothingLeft());
  CHECK(job.Report() ==
        "[1] broken\n"
        "rank 1 (pid P) ended with exit code 7\n"
        "  last    [1] broken\n"
        "  others  ranks 0, 2 stopped in T; no process is left\n"
        "  next    log: log/attempt_0/1/stderr.log\n"
        "exit code 7\n");
  const auto outcome = job.Outcome();
  REQUIRE(outcome.is_object());
  CHECK(outcome["exit_code"] == 7);
  CHECK(outcome["root_cause"]["rank"] == 1);
  CHECK(outcome["root_cause"]["signal"].is_null());
}

TEST_CASE("a rank that a signal ended") {
  Job job;
  CHECK(job.Run({"--processes", "2", "--grace", "600"}, {"0:raise=6", "sleep=1000"}) == 134);
  CHECK(job.NothingLeft());
  CHECK(job.Report() ==
        "rank 0 (pid P) ended with signal 6 (SIGABRT)\n"
        "  others  rank 1 stopped in T; no process is left\n"
        "  next    log: log/attempt_0/0/stdout.log\n"
        "exit code 134\n");
  CHECK(job.Outcome()["root_cause"]["signal"] == "SIGABRT");
}

TEST_CASE("a Python rank's own words for it; the first error counts, not the first end") {
  Job job;
  CHECK(job.Run({"--processes", "2", "--grace", "600"},
                {"1:on-signal=15,1", "1:error-file=ValueError: bad batch",
                 "1:touch=" + job.Path("failed"), "1:sleep=1000", "0:wait=" + job.Path("failed"),
                 "0:exit=2"}) == 1);
  CHECK(job.Report() ==
        "rank 1 (pid P) ended with exit code 1\n"
        "  cause   ValueError: bad batch\n"
        "  others  no process is left\n"
        "  next    log: log/attempt_0/1/stdout.log\n"
        "exit code 1\n");
}

TEST_CASE("a peer that is deaf to SIGTERM is killed after its grace") {
  Job job;
  CHECK(job.Run({"--processes", "2", "--grace", "0.3"},
                {"1:ignore=15", "1:touch=" + job.Path("deaf"), "0:wait=" + job.Path("deaf"),
                 "0:exit=3", "sleep=1000"}) == 3);
  CHECK(job.NothingLeft());
  CHECK(job.Report() ==
        "rank 0 (pid P) ended with exit code 3\n"
        "  others  rank 1 ignored SIGTERM for 300 ms and was killed; no process is left\n"
        "  next    log: log/attempt_0/0/stdout.log\n"
        "exit code 3\n");
}

TEST_CASE("what ranks have started is gone with them, deaf to SIGTERM or not, failed or not") {
  for (const int code : {0, 5}) {
    CAPTURE(code);
    Job job;
    job.Start({"--processes", "2", "--grace", "0.3"},
              {"daemon=deaf", "daemon", "worker", "wait=" + job.Path("go"),
               "1:exit=" + std::to_string(code), "0:exit=0"});
    REQUIRE(job.Grows(2 + 2 * 4));
    job.Touch("go");
    CHECK(job.Wait() == code);
    CHECK(job.NothingLeft());
  }
}

TEST_CASE("a rank that is stopped ends too") {
  Job job;
  job.Start({"--processes", "2", "--grace", "600"},
            {"1:touch=" + job.Path("ready"), "1:stop", "0:wait=" + job.Path("go"), "0:exit=4",
             "sleep=1000"});
  REQUIRE(job.Exists("ready"));
  job.Touch("go");
  CHECK(job.Wait() == 4);
  CHECK(job.NothingLeft());
}

TEST_CASE("SIGTERM goes to the ranks, and they say how it ended") {
  struct Case {
    std::string step;
    int code;
    std::string last;
  };
  for (const auto& [step, code, last] :
       {Case{"on-signal=15,0", 0, "stopped by SIGTERM in T; no process is left\n"},
        Case{"on-signal=15,75", 75, "preempted: the ranks ended with exit code 75\n"},
        Case{"sleep=0", 143, "stopped by SIGTERM in T; no process is left\n"}}) {
    CAPTURE(step);
    Job job;
    job.Start({"--processes", "2", "--grace", "60"},
              {step, "0:touch=" + job.Path("a"), "1:touch=" + job.Path("b"), "sleep=1000"});
    REQUIRE(job.Exists("a"));
    REQUIRE(job.Exists("b"));
    kill(job.launcher(), SIGTERM);
    CHECK(job.Wait() == code);
    CHECK(job.NothingLeft());
    CHECK(job.Report() == "SIGTERM: ranks have 60.0 s to stop\n" + last);
    CHECK(job.Outcome()["exit_code"] == code);
    CHECK(job.Outcome()["root_cause"].is_null());
  }
}

TEST_CASE("a second Ctrl-C ends deaf ranks at once") {
  Job job;
  job.Start({"--processes", "1", "--grace", "600"},
            {"ignore=2", "ignore=15", "touch=" + job.Path("ready"), "sleep=1000"});
  REQUIRE(job.Exists("ready"));
  kill(job.launcher(), SIGINT);
  REQUIRE(Soon([&] { return !job.Err().empty(); }));
  CHECK(job.Err() == "SIGINT: ranks have 600.0 s to stop; once more ends them at once\n");
  std::this_thread::sleep_for(300ms);  // sooner, it is taken for the same Ctrl-C
  kill(job.launcher(), SIGINT);
  CHECK(job.Wait() == 130);
  CHECK(job.NothingLeft());
}

TEST_CASE("kill -9 of the launcher leaves no process") {
  Job job;
  job.Start({"--processes", "2", "--grace", "600"}, {"ignore=15", "daemon=deaf", "sleep=1000"});
  REQUIRE(job.Grows(2 + 2 * 2));
  kill(job.launcher(), SIGKILL);
  CHECK(job.Wait() == 137);
  CHECK(job.NothingLeftSoon());
  CHECK(job.Outcome()["exit_code"] == 137);
}

TEST_CASE("kill -9 of the launcher's child leaves no process, and the launcher says so") {
  Job job;
  job.Start({"--processes", "2", "--grace", "600"}, {"ignore=15", "daemon=deaf", "sleep=1000"});
  REQUIRE(job.Grows(2 + 2 * 2));
  const pid_t supervisor = job.Supervisor();
  REQUIRE(supervisor > 0);
  kill(supervisor, SIGKILL);
  CHECK(job.Wait() == 137);
  CHECK(job.NothingLeft());
  CHECK(job.Err() == "error: the launcher's supervisor (pid " + std::to_string(supervisor) +
                         ") ended with signal 9 (SIGKILL)\n"
                         "  It took every rank with it; no process is left.\n");
}

TEST_CASE("kill -9 of both at once leaves no rank") {
  Job job;
  job.Start({"--processes", "2"}, {"ignore=15", "sleep=1000"});
  REQUIRE(job.Grows(2 + 2));
  const pid_t supervisor = job.Supervisor();
  REQUIRE(supervisor > 0);
  kill(supervisor, SIGSTOP);  // so that it cannot act when its parent goes
  kill(job.launcher(), SIGKILL);
  kill(supervisor, SIGKILL);
  CHECK(job.Wait() == 137);
  CHECK(job.NothingLeftSoon());
}

TEST_CASE("a port that another job has is an error that names its rank 0") {
  const std::string port = std::to_string(FreePort());
  REQUIRE(port != "0");
  Job first;
  first.Start({"--processes", "1", "--master-port", port},
              {"listen=master", "touch=" + first.Path("ready"), "sleep=1000"});
  REQUIRE(first.Exists("ready"));
  CHECK(Soon([&] { return first.Out() == port + "\n"; }));

  Job second;
  CHECK(second.Run({"--processes", "2", "--master-port", port}, {"touch=" + second.Path("ran")}) ==
        3);
  CHECK_FALSE(fs::exists(second.Path("ran")));
  CHECK_FALSE(fs::exists(second.Path("log")));
  const auto holder = FindPortHolder(std::stoi(port));
  REQUIRE(holder);
  const std::string who =
      "error: port " + port + " is in use by rank_program (pid P, user " + holder->user + ": ";
  CHECK(second.Report().substr(0, who.size()) == who);
  CHECK(second.Report().ends_with(
      "\n  Leave out --master-port to have a free one chosen, or stop that process.\n"));
}

TEST_CASE("without a port each job has one of its own") {
  Job jobs[2];
  std::string ports[2];
  for (int i = 0; i < 2; ++i) {
    jobs[i].Start({"--processes", "1"},
                  {"listen=master", "touch=" + jobs[i].Path("ready"), "sleep=1000"});
    REQUIRE(jobs[i].Exists("ready"));
    REQUIRE(Soon([&] { return jobs[i].Out().ends_with('\n'); }));
    ports[i] = jobs[i].Out();
  }
  CHECK(ports[0] != ports[1]);
}

TEST_CASE("two launches that name one free port: the second is told of the first") {
  const std::string port = std::to_string(FreePort());
  REQUIRE(port != "0");
  Job first;
  first.Start({"--processes", "1", "--master-port", port},
              {"touch=" + first.Path("ready"), "sleep=1000"});
  REQUIRE(first.Exists("ready"));  // nobody listens there yet
  Job second;
  CHECK(second.Run({"--processes", "1", "--master-port", port}, {}) == 3);
  const std::string who = "error: port " + port + " is in use by envkit-";
  CHECK(second.Report().substr(0, who.size()) == who);
}

TEST_CASE("all ranks start anew after a failure, and every attempt's logs are kept") {
  Job job;
  // The first attempt fails: the file is made by then, and the second one finds it.
  CHECK(job.Run({"--processes", "2", "--max-restarts", "2", "--grace", "60"},
                {"env", "1:once=" + job.Path("failed") + ",7", "1:exit=0", "0:exit=0"}) == 0);
  CHECK(job.NothingLeft());
  CHECK(job.Outcome()["attempts"] == 2);
  CHECK(job.Outcome()["root_cause"].is_null());
  for (int attempt = 0; attempt < 2; ++attempt) {
    const auto env = nlohmann::json::parse(
        job.Read("log/attempt_" + std::to_string(attempt) + "/1/stdout.log"), nullptr, false);
    REQUIRE(env.is_object());
    CHECK(env["TORCHELASTIC_RESTART_COUNT"] == std::to_string(attempt));
    CHECK(env["TORCHELASTIC_MAX_RESTARTS"] == "2");
  }
  CHECK(job.Report().find("restart   attempt 2 of 3: all ranks anew\n") != std::string::npos);
  CHECK(job.Report().find("rank 1 (pid P) ended with exit code 7\n") == 0);
}

TEST_CASE("restarts come to an end, and a stop is no failure") {
  Job job;
  CHECK(job.Run({"--processes", "2", "--max-restarts", "1"}, {"1:exit=9", "sleep=1000"}) == 9);
  CHECK(job.Outcome()["attempts"] == 2);
  CHECK(job.Outcome()["root_cause"]["rank"] == 1);

  Job stopped;
  stopped.Start({"--processes", "1", "--max-restarts", "5"},
                {"touch=" + stopped.Path("ready"), "sleep=1000"});
  REQUIRE(stopped.Exists("ready"));
  kill(stopped.launcher(), SIGTERM);
  CHECK(stopped.Wait() == 143);
  CHECK(stopped.Outcome()["attempts"] == 1);
}

TEST_CASE("SIGUSR1 reaches the ranks that have a handler for it, and spares the others") {
  Job job;
  job.Start({"--processes", "2"},
            {"on-signal=15,75", "1:on-signal=10,75", "1:touch=" + job.Path("b"),
             "0:touch=" + job.Path("a"), "sleep=1000"});
  REQUIRE(job.Exists("a"));
  REQUIRE(job.Exists("b"));
  kill(job.launcher(), SIGUSR1);
  REQUIRE(Soon([&] { return !job.Err().empty(); }));
  CHECK(job.Err() == "SIGUSR1: rank 0 has no handler for it and was spared\n");
  kill(job.launcher(), SIGTERM);
  CHECK(job.Wait() == 75);
}

TEST_CASE("streams and ranks that the console leaves out are in the logs") {
  Job job;
  REQUIRE(job.Run({"--processes", "3", "-r", "1:1", "--local-ranks-filter", "0,1"},
                  {"print=out", "error=err"}) == 0);
  CHECK(job.Out() == "out\n");
  Words lines = Lines(job.Err());
  std::sort(lines.begin(), lines.end());
  CHECK(lines == Words{"[1] err", "err"});
  CHECK(job.Read("log/attempt_0/1/stdout.log") == "out\n");
  CHECK(job.Read("log/attempt_0/2/stderr.log") == "err\n");
}

TEST_CASE("a prefix of the user's own, and ${local_rank} in arguments") {
  Job job;
  REQUIRE(job.Run({"--processes", "2", "--log-line-prefix-template", "<${role_name}:$rank> "},
                  {"print=me ${local_rank}"}) == 0);
  Words lines = Lines(job.Out());
  std::sort(lines.begin(), lines.end());
  CHECK(lines == Words{"<default:0> me 0", "<default:1> me 1"});
}

TEST_CASE("64 ranks: every line whole and in order, those that say the same are one") {
  Job job;
  const auto start = Clock::now();
  REQUIRE(job.Run({"--processes", "64"}, {"flood=100"}) == 0);
  MESSAGE("64 ranks with 100 lines each took ",
          std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start).count(),
          " ms");
  std::vector<int> next(64);
  for (const auto& line : Lines(job.Out())) {
    std::istringstream words(line.starts_with('[') ? line.substr(line.find(' ') + 1) : line);
    std::string word;
    int rank = -1;
    int number = -1;
    words >> word >> rank >> number;
    REQUIRE(rank >= 0);
    CHECK(number == next[static_cast<std::size_t>(rank)]);
    ++next[static_cast<std::size_t>(rank)];
  }
  CHECK(std::all_of(next.begin(), next.end(), [](int n) { return n == 100; }));

  Job same;
  REQUIRE(same.Run({"--processes", "8"},
                   {"touch=" + same.Path("r") + "$rank", "print=the same", "sleep=0.3"}) == 0);
  unsigned counted = 0;
  for (const auto& line : Lines(same.Out())) counted += line.ends_with("the same") ? 1 : 0;
  CHECK(counted >= 2);  // rank 0's own, and the others' in as few as they came together
  CHECK(counted < 8);
}

TEST_CASE("a job that hangs is ended, and its ranks get SIGABRT to show their stacks") {
  Job job;
  CHECK(job.Run({"--processes", "2", "--hang-timeout", "0.5", "--grace", "30"},
                {"print=up", "sleep=1000"}) == 1);
  CHECK(job.NothingLeft());
  const std::string report = job.Report();
  CHECK(report.find("no rank has printed anything for 500 ms: taking their stacks\n") == 0);
  CHECK(report.find("the job hangs: no rank has printed anything for 500 ms\n  cause   see each "
                    "rank's stderr.log (Python) and stack.txt in ") != std::string::npos);
  CHECK(report.ends_with("exit code 1\n"));

  // Who is stopped, or computes while the others wait, is named.
  Job stopped;
  CHECK(stopped.Run({"--processes", "3", "--hang-timeout", "0.5"},
                    {"print=up", "1:stop", "sleep=1000"}) == 1);
  CHECK(
      stopped.Report().find("\n  cause   rank 1 (pid P) has been stopped (SIGSTOP or a debugger)\n"
                            "  stacks  each rank's ") != std::string::npos);
  Job spins;
  CHECK(spins.Run({"--processes", "3", "--hang-timeout", "2"},
                  {"print=up", "2:spin", "sleep=1000"}) == 1);
  CHECK(spins.Report().find("cause   rank 2 (pid P) has been computing") != std::string::npos);

  Job busy;  // one that speaks is left alone
  CHECK(busy.Run({"--processes", "2", "--hang-timeout", "2"},
                 {"0:print=a", "0:sleep=1.2", "0:print=b", "0:sleep=1.2", "1:sleep=2.4"}) == 0);
}

TEST_CASE("a job that was suspended does not hang") {
  Job job;
  job.Start({"--processes", "2", "--hang-timeout", "0.5"},
            {"touch=" + job.Path("up"), "print=up", "sleep=0.2"});
  REQUIRE(job.Exists("up"));
  kill(job.launcher(), SIGTSTP);
  std::this_thread::sleep_for(1500ms);
  kill(job.launcher(), SIGCONT);
  CHECK(job.Wait() == 0);
  CHECK(job.Report().empty());
}

TEST_CASE("what cannot be started") {
  Job job;
  job.Start({}, {}, "envkit-no-such");
  CHECK(job.Wait() == 2);
  CHECK(job.Err() ==
        "error: there is no program envkit-no-such on PATH\n"
        "  Check the name, or give the path to it.\n");

#ifndef __SANITIZE_THREAD__  // see process.cpp
  Job text;
  REQUIRE(WriteFileAtomic(text.Path("text"), "no program\n", 0755));
  text.Start({"--processes", "2"}, {}, text.Path("text"));
  CHECK(text.Wait() == 126);
  CHECK(text.Err() == "error: cannot run " + text.Path("text") +
                          ": it is neither a program nor a script with #!\n");
#endif
}

TEST_CASE("the logs are this launch's, not an earlier one's") {
  Job job;
  CHECK(job.Run({"--processes", "3"}, {"error-file=old", "print=old", "exit=1"}) == 1);
  CHECK(job.Run({"--processes", "2"}, {"print=new"}) == 0);
  CHECK(job.Read("log/attempt_0/1/stdout.log") == "new\n");
  CHECK_FALSE(fs::exists(job.Path("log/attempt_0/1/error.json")));
  CHECK_FALSE(fs::exists(job.Path("log/attempt_0/2/stdout.log")));
  CHECK(job.Outcome()["world_size"] == 2);
}

TEST_CASE("a log directory that cannot be made") {
  Job job;
  REQUIRE(WriteFileAtomic(job.Path("log"), "a file\n"));
  CHECK(job.Run({"--processes", "1"}, {"exit=0"}) == 2);
  CHECK(job.Err() == "error: cannot make the log directory " + job.Path("log/attempt_0/0") +
                         ": Not a directory\n"
                         "  Name one that you may write to with --log-dir.\n");
}

}  // namespace envkit
