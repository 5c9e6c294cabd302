// Ranks that are forked from one process, without the launcher around it.
#include "launch/fork_server.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "base/scratch.h"

namespace envkit {
namespace {

using namespace std::string_literals;

SpawnSpec RankOf(const std::string& program, int rank, int out) {
  SpawnSpec spec;
  spec.program = program;
  spec.argv = {program, "env"};
  spec.env = {"RANK=" + std::to_string(rank), "OMP_NUM_THREADS=1"};
  spec.out = spec.err = out;
  spec.new_session = spec.die_with_parent = true;
  sigemptyset(&spec.mask);
  return spec;
}

TEST_CASE("fork server: what the ranks are told") {
  std::vector<SpawnSpec> ranks = {RankOf("/bin/p", 0, 7), RankOf("/bin/p", 1, 8)};
  ranks[1].in = 5;
  ranks[1].cpus = {2, 3};
  CHECK(ForkDescription(42, ranks) ==
        "42\0"
        "2\0"
        "-1\0"
        "7\0"
        "7\0"
        "\0"
        "2\0"
        "RANK=0\0"
        "OMP_NUM_THREADS=1\0"
        "5\0"
        "8\0"
        "8\0"
        "2,3\0"
        "2\0"
        "RANK=1\0"
        "OMP_NUM_THREADS=1\0"s);
}

TEST_CASE("fork server: a program is known by the library that it needs") {
  CHECK(NeedsLibrary(ENVKIT_TEST_FORKED_RANK, "libenvkit_runtime.so"));
  CHECK(!NeedsLibrary(ENVKIT_TEST_FORKED_RANK, "libenvkit_runtime.s"));
  CHECK(!NeedsLibrary(ENVKIT_TEST_RANK, "libenvkit_runtime.so"));
  CHECK(NeedsLibrary(ENVKIT_TEST_RANK, "libc.so.6"));
  const Scratch scratch;
  const auto file = scratch.path() / "file";
  for (const std::string& text : {""s, "#!/bin/sh\n"s,
                                  "\x7f"
                                  "ELF\2"s +
                                      std::string(500, '\xff')}) {
    REQUIRE(WriteFileAtomic(file, text));
    CHECK(!NeedsLibrary(file, "libenvkit_runtime.so"));
  }
  CHECK(!NeedsLibrary(scratch.path() / "none", "libenvkit_runtime.so"));
}

TEST_CASE("fork server: only ranks that load alike") {
  std::vector<SpawnSpec> ranks = {RankOf("/bin/p", 0, 7), RankOf("/bin/p", 1, 8)};
  CHECK(CanFork(ranks));
  CHECK(!CanFork({ranks[0]}));
  auto others = ranks;
  others[1].env[1] = "OMP_NUM_THREADS=2";
  CHECK(!CanFork(others));
  others = ranks;
  others[1].argv.emplace_back("1");  // torchrun's ${local_rank}
  CHECK(!CanFork(others));
}

TEST_CASE("fork server: ranks are our own children, and nothing is left when it fails") {
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  int ends[2];
  REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
  int never[2];
  REQUIRE(pipe2(never, O_CLOEXEC) == 0);
  std::vector<SpawnSpec> ranks;
  for (int rank = 0; rank < 3; ++rank)
    ranks.push_back(RankOf(ENVKIT_TEST_FORKED_RANK, rank, ends[1]));
  const auto pids = ForkRanks(ranks, never[0]);
  REQUIRE(pids.size() == 3);
  for (const pid_t pid : pids) {
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(status == 0);
  }
  // A program that does not know what it is asked for, and an interruption.
  for (SpawnSpec& rank : ranks) rank.program = "/bin/true";
  CHECK(ForkRanks(ranks, never[0]).empty());
  for (SpawnSpec& rank : ranks) rank.program = "/bin/sleep";
  for (SpawnSpec& rank : ranks) rank.argv = {"sleep", "1000"};
  REQUIRE(write(never[1], "x", 1) == 1);
  CHECK(ForkRanks(ranks, never[0]).empty());
  CHECK(waitpid(-1, nullptr, 0) == -1);
  prctl(PR_SET_CHILD_SUBREAPER, 0);
  for (const int fd : {ends[0], ends[1], never[0], never[1]}) close(fd);
}

}  // namespace
}  // namespace envkit
