#include "launch/report.h"

#include <doctest/doctest.h>
#include <signal.h>

#include <iterator>
#include <nlohmann/json.hpp>

#include "base/scratch.h"

namespace envkit {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;
using Words = std::vector<std::string>;

const RankEnd kKilled{
    .rank = 2, .pid = 48213, .code = 137, .signal = SIGKILL, .gpu = "", .host = ""};
const RankEnd kExited{.rank = 1, .pid = 77, .code = 3, .signal = 0, .gpu = "", .host = ""};

void PutReport(const fs::path& file, const std::string& text) {
  fs::create_directories(file.parent_path());
  REQUIRE(WriteFileAtomic(file, text));
}

OomCounters Counters(std::uint64_t cgroup, std::uint64_t machine,
                     std::optional<std::uint64_t> limit = std::nullopt) {
  return {.cgroup = cgroup, .machine = machine, .known = true, .limit_bytes = limit};
}

}  // namespace

TEST_CASE("how a rank ended") {
  RankEnd on_gpu = kKilled;
  on_gpu.gpu = "2, GPU-5f3c61f2";
  CHECK(EndText(on_gpu) == "rank 2 (pid 48213, GPU 2, GPU-5f3c61f2) ended with signal 9 (SIGKILL)");
  RankEnd on_node = kExited;
  on_node.host = "node-b";
  CHECK(EndText(on_node) == "rank 1 on node-b (pid 77) ended with exit code 3");
  CHECK(EndText(kKilled) == "rank 2 (pid 48213) ended with signal 9 (SIGKILL)");
  CHECK(EndText(kExited) == "rank 1 (pid 77) ended with exit code 3");
  CHECK(SignalName(SIGSEGV) == "SIGSEGV");
  CHECK(SignalName(64) == "signal 64");
}

TEST_CASE("why a rank ended") {
  const auto cause = [](const OomCounters& before, const OomCounters& after) {
    return CauseText(kKilled, before, after, std::nullopt);
  };
  CHECK(cause(Counters(1, 1), Counters(2, 2, 64ull << 30)) ==
        "the kernel's OOM killer: memory cgroup limit 64 GiB reached");
  CHECK(cause(Counters(1, 1), Counters(2, 2)) == "the kernel's OOM killer, in this memory cgroup");
  CHECK(cause(Counters(1, 1), Counters(1, 2, 64ull << 30)) ==
        "most likely the kernel's OOM killer: it ended a process on this machine meanwhile");
  CHECK(cause(Counters(1, 1), Counters(1, 1)) ==
        "SIGKILL came from outside; the kernel's OOM killer did not act");
  CHECK(cause({}, {}) == "SIGKILL came from outside, or from the kernel's OOM killer");

  CHECK(CauseText(kExited, {}, {}, "ValueError: bad") == "ValueError: bad");
  CHECK(CauseText(kExited, Counters(1, 1), Counters(2, 2), std::nullopt).empty());
}

TEST_CASE("counters of the OOM killer: cgroup v2, the tightest limit counts") {
  const Scratch root;
  PutReport(root / "proc/vmstat", "nr_free_pages 12\noom_kill 7\n");
  PutReport(root / "proc/self/cgroup", "0::/job/step\n");
  const fs::path mount = root / "sys/fs/cgroup";
  PutReport(mount / "job/step/memory.events", "low 0\nhigh 9\nmax 8\noom 5\noom_kill 4\n");
  PutReport(mount / "job/step/memory.max", "max\n");
  PutReport(mount / "job/memory.max", "1073741824\n");
  PutReport(mount / "memory.max", "4294967296\n");
  const OomCounters counters = ReadOomCounters(root.path());
  CHECK(counters.machine == 7);
  CHECK(counters.cgroup == 4);
  CHECK(counters.known);
  CHECK(counters.limit_bytes == 1073741824u);
}

TEST_CASE("counters of the OOM killer: cgroup v1 beside an empty v2") {
  const Scratch root;
  PutReport(root / "proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/job\n0::/other\n");
  const fs::path mount = root / "sys/fs/cgroup/memory";
  PutReport(mount / "job/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n");
  PutReport(mount / "job/memory.limit_in_bytes", "2147483648\n");
  PutReport(mount / "memory.limit_in_bytes", "9223372036854771712\n");  // v1's way to say none
  const OomCounters counters = ReadOomCounters(root.path());
  CHECK(counters.cgroup == 3);
  CHECK(counters.machine == 0);
  CHECK(counters.known);
  CHECK(counters.limit_bytes == 2147483648u);
}

TEST_CASE("counters of the OOM killer: the host's path in a container is not below the mount") {
  const Scratch root;
  PutReport(root / "proc/self/cgroup", "0::/system.slice/docker-abc.scope\n");
  PutReport(root / "sys/fs/cgroup/memory.events", "oom_kill 2\n");
  PutReport(root / "sys/fs/cgroup/memory.max", "1024\n");
  CHECK(ReadOomCounters(root.path()).cgroup == 2);
  CHECK(ReadOomCounters(root.path()).limit_bytes == 1024u);
}

TEST_CASE("counters of the OOM killer: where the kernel tells nothing") {
  const Scratch root;
  const OomCounters counters = ReadOomCounters(root.path());
  CHECK_FALSE(counters.known);
  CHECK(counters.cgroup == 0);
  CHECK_FALSE(counters.limit_bytes);
}

TEST_CASE("the error file of torch's @record") {
  const Scratch scratch;
  const fs::path file = scratch / "error.json";
  const auto read = [&](const std::string& text) {
    PutReport(file, text);
    return ReadErrorFile(file).value_or("nothing");
  };
  CHECK(ReadErrorFile(file).value_or("nothing") == "nothing");
  CHECK(read(R"({"message": {"message": "ValueError: bad\nat x", "extraInfo": {}}})") ==
        "ValueError: bad");
  CHECK(read(R"({"message": "\n\u001b[31mRuntimeError\u001b[0m: x"})") == "RuntimeError: x");
  CHECK(read(R"({"message": {"code": 1}})") == "nothing");
  CHECK(read(R"({"message": 7})") == "nothing");
  CHECK(read(R"({"mess)") == "nothing");
  CHECK(read("[]") == "nothing");
}

TEST_CASE("the last lines of an output") {
  CHECK(LastLines("", 3).empty());
  CHECK(LastLines("\n \n\t\n", 3).empty());
  CHECK(LastLines("one\ntwo\nthree\nfour", 3) == Words{"two", "three", "four"});
  CHECK(LastLines("one\n\ntwo\n\n\n", 6) == Words{"one", "two"});
  CHECK(LastLines("10%\r50%\r100%\r\ndone\n", 6) == Words{"100%", "done"});
  CHECK(LastLines("\x1b[1;31mred\x1b[0m\ta\x07"
                  "b\x7f\n",
                  6) == Words{"red ab"});
  CHECK(LastLines(std::string(1000, 'x') + "\n", 1) == Words{std::string(300, 'x') + "…"});
  // Not half a character at the cut.
  CHECK(LastLines(std::string(299, 'x') + "é and so on\n", 1) ==
        Words{std::string(299, 'x') + "…"});
}

TEST_CASE("lists of ranks, times and sizes as a person writes them") {
  CHECK(RankList({4}) == "rank 4");
  CHECK(RankList({0, 1}) == "ranks 0, 1");
  CHECK(RankList({0, 1, 2}) == "ranks 0-2");
  CHECK(RankList({0, 1, 3}) == "ranks 0, 1, 3");
  CHECK(RankList({0, 2, 3, 4, 5, 7, 9, 10}) == "ranks 0, 2-5, 7, 9, 10");
  CHECK(DurationText(31ms) == "31 ms");
  CHECK(DurationText(999ms) == "999 ms");
  CHECK(DurationText(2100ms) == "2.1 s");
  CHECK(MemoryText(512) == "512 B");
  CHECK(MemoryText(1536) == "1.5 KiB");
  CHECK(MemoryText(64ull << 30) == "64 GiB");
  CHECK(MemoryText(4096ull << 40) == "4096 TiB");
}

TEST_CASE("the report of a failure") {
  FailureReport report;
  RankEnd on_gpu = kKilled;
  on_gpu.gpu = "2";
  report.headline = EndText(on_gpu);
  report.rank = 2;
  report.cause = "the kernel's OOM killer: memory cgroup limit 64 GiB reached";
  report.last = {"step 10", "step 11"};
  report.stopped = {0, 1, 3};
  report.took = 31ms;
  report.out_of_memory = true;
  report.log = "log/attempt_0/2/stderr.log";
  report.exit_code = 137;
  CHECK(FailureText(report) ==
        "rank 2 (pid 48213, GPU 2) ended with signal 9 (SIGKILL)\n"
        "  cause   the kernel's OOM killer: memory cgroup limit 64 GiB reached\n"
        "  last    [2] step 10\n"
        "          [2] step 11\n"
        "  others  ranks 0, 1, 3 stopped in 31 ms; no process is left\n"
        "  next    lower the batch size or the loaders' workers, or raise the limit; "
        "log: log/attempt_0/2/stderr.log\n"
        "exit code 137\n");
}

TEST_CASE("the report of a failure: peers that did not stop, and what could not be ended") {
  FailureReport report;
  report.headline = EndText(kExited);
  report.rank = 1;
  report.grace = 5s;
  report.killed = {2};
  report.log = "x.log";
  report.exit_code = 3;
  CHECK(FailureText(report) ==
        "rank 1 (pid 77) ended with exit code 3\n"
        "  others  rank 2 ignored SIGTERM for 5.0 s and was killed; no process is left\n"
        "  next    log: x.log\n"
        "exit code 3\n");
  report.stopped = {0};
  report.took = 1200ms;
  report.killed = {2, 3};
  report.left = {"python3 (pid 9)", "nvcc (pid 10)"};
  CHECK(FailureText(report) ==
        "rank 1 (pid 77) ended with exit code 3\n"
        "  others  rank 0 stopped in 1.2 s; ranks 2, 3 ignored SIGTERM for 5.0 s and were killed; "
        "SIGKILL did not end python3 (pid 9), nvcc (pid 10)\n"
        "  next    log: x.log\n"
        "exit code 3\n");
}

TEST_CASE("the report of a failure says what the output means") {
  FailureReport report;
  report.headline = EndText(kExited);
  report.rank = 1;
  report.last = {"bind: Address already in use"};
  report.symptom = Explain(report.last[0]);
  report.log = "x.log";
  report.exit_code = 3;
  CHECK(FailureText(report) ==
        "rank 1 (pid 77) ended with exit code 3\n"
        "  last    [1] bind: Address already in use\n"
        "  means   Another process listens on this port, often the last run.\n"
        "  do      Leave out --master-port, or find it: ss -ltnp\n"
        "  others  no process is left\n"
        "  next    log: x.log\n"
        "exit code 3\n");
  CHECK(CauseJson(kExited, report) ==
        R"({"rank":1,"pid":77,"exit_code":3,"signal":null,)"
        R"("text":"rank 1 (pid 77) ended with exit code 3","symptom":"port-taken"})");
}

TEST_CASE("the outcome of a job is a file") {
  const Scratch scratch;
  Outcome fine;
  fine.world_size = 4;
  REQUIRE(WriteOutcome(scratch / "outcome.json", fine));
  CHECK(ReadFile(scratch / "outcome.json").value() ==
        "{\n  \"exit_code\": 0,\n  \"world_size\": 4,\n  \"attempts\": 1,\n  \"root_cause\": "
        "null\n}\n");

  Outcome failed{.exit_code = 137, .world_size = 4, .attempts = 2, .cause = ""};
  FailureReport report;
  report.headline = EndText(kKilled);
  report.cause = "not \xff UTF-8";
  failed.cause = CauseJson(kKilled, report);
  REQUIRE(WriteOutcome(scratch / "outcome.json", failed));
  const auto document = nlohmann::json::parse(ReadFile(scratch / "outcome.json").value());
  CHECK(document == nlohmann::json{{"exit_code", 137},
                                   {"world_size", 4},
                                   {"attempts", 2},
                                   {"root_cause",
                                    {{"rank", 2},
                                     {"pid", 48213},
                                     {"exit_code", 137},
                                     {"signal", "SIGKILL"},
                                     {"text", "rank 2 (pid 48213) ended with signal 9 (SIGKILL)"},
                                     {"cause", "not \xef\xbf\xbd UTF-8"}}}});
  // Nothing half-made beside it.
  CHECK(std::distance(fs::directory_iterator(scratch.path()), {}) == 1);
  CHECK_FALSE(WriteOutcome(scratch / "no-such/outcome.json", {}));
}

}  // namespace envkit
