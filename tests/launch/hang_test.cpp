#include "launch/hang.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/files.h"

namespace envkit {
namespace {

// What torch 2.15 wrote of two Gloo ranks of which the second did not come to the fourth
// all_reduce; the paths in it were replaced by others of the same length.
std::string Dump(int rank) {
  return ReadFile(std::string(std::getenv("ENVKIT_SOURCE_DIR")) + "/tests/fixtures/launch/flight_" +
                  std::to_string(rank))
      .value();
}

RankState State(int rank, char letter = 'S', double cpu = -1, double silent = 60) {
  RankState state;
  state.rank = rank;
  state.pid = 100 + rank;
  state.state = letter;
  state.cpu = cpu;
  state.silent_s = silent;
  return state;
}

RankState At(int rank, long long number, bool done = false, const char* name = "all_reduce") {
  RankState state = State(rank);
  state.reached["the default group"] = {number, name, done};
  return state;
}

// As Python 3.13 prints it on SIGABRT.
std::string Trace(const std::string& frames) {
  return "epoch 3\nFatal Python error: Aborted\n\n"
         "Thread 0x00007f2ab9fff6c0 (most recent call first):\n"
         "  File \"/usr/lib/python3.13/threading.py\", line 359 in wait\n\n"
         "Current thread 0x00007f2b3a1f0740 (most recent call first):\n" +
         frames + "\nExtension modules: torch._C (total: 21)\n";
}

}  // namespace

TEST_CASE("a flight recorder's dump names the rank that did not come") {
  std::vector<RankState> states{State(0), State(1)};
  for (int rank = 0; rank < 2; ++rank) {
    REQUIRE(ReadFlightRecord(Dump(rank), states[static_cast<std::size_t>(rank)]));
  }
  const Collective& last = states[0].reached.at("the default group");
  CHECK(last.number == 4);
  CHECK(last.name == "all_reduce");
  CHECK(Lagging(states) ==
        "rank 1 (pid 101) has not come to all_reduce 4 of the default group; the last there was "
        "all_reduce 3");
}

TEST_CASE("a dump that is cut off or none says nothing, and does no harm") {
  const std::string dump = Dump(0);
  for (std::size_t length = 0; length < dump.size(); ++length) {
    RankState state;
    CHECK_FALSE(ReadFlightRecord(dump.substr(0, length), state));
  }
  RankState state;
  CHECK_FALSE(ReadFlightRecord("no dump", state));
  CHECK_FALSE(ReadFlightRecord("[1]", state));
  CHECK(ReadFlightRecord(R"({"entries": [3, {"collective_seq_id": 7, "is_p2p": true},
      {"collective_seq_id": 2, "profiling_name": "nccl:all_gather", "state": "started",
       "process_group": ["1", "tensor"]}]})",
                         state));
  CHECK(state.reached.at("group tensor").number == 2);
  CHECK(state.reached.size() == 1);
}

TEST_CASE("pickles: what torch's hold, and nothing that would run") {
  using nlohmann::json;
  CHECK(*ReadPickle(std::string("\x80\x02]q\x00(K\x01M\x00\x01J\xff\xff\xff\xff\x8a\x01\x80\x88Ne.",
                                23)) == json::parse("[1, 256, -1, -128, true, null]"));
  CHECK(*ReadPickle(std::string("\x80\x02}X\x01\x00\x00\x00"
                                "aq\x01G?\xf8\x00\x00\x00\x00\x00\x00s.",
                                22)) == json::parse(R"({"a": 1.5})"));
  // os.system("true"): the name is not looked up, its argument is all that is left.
  CHECK(*ReadPickle(std::string("cos\nsystem\nX\x04\x00\x00\x00true\x85R.", 23)) == "true");
  CHECK_FALSE(ReadPickle("."));
  CHECK_FALSE(ReadPickle("u."));
  CHECK_FALSE(ReadPickle("h\x05."));
}

TEST_CASE("who lags, from the surest sign to the weakest") {
  CHECK(Lagging({At(0, 5), At(1, 3, true, "barrier"), State(2, 'T')}) ==
        "rank 2 (pid 102) has been stopped (SIGSTOP or a debugger)");
  CHECK(Lagging({At(0, 5), At(1, 3, true, "barrier"), At(2, 5)}) ==
        "rank 1 (pid 101) has not come to all_reduce 5 of the default group; the last there was "
        "barrier 3");
  CHECK(Lagging({At(0, 5), At(1, 4), At(2, 4)}) ==
        "rank 1 (pid 101), rank 2 (pid 102) have not come to all_reduce 5 of the default group; "
        "the last there is all_reduce 4");
  CHECK(Lagging({At(0, 5), At(1, 5)}) ==
        "every rank has come to all_reduce 5 of the default group, and it does not end: the "
        "network or a GPU");
  CHECK(Lagging({At(0, 5, true), At(1, 5, true)}).empty());
  CHECK(Lagging({State(0, 'S', 0.0), State(1, 'R', 0.99), State(2, 'S', 0.01)}) ==
        "rank 1 (pid 101) has been computing while the others waited");
  CHECK(Lagging({State(0, 'R', 1.0), State(1, 'S', 0.0), State(2, 'R', 0.9)}) ==
        "rank 1 (pid 101) has been asleep while the others were busy");
  CHECK(Lagging({State(0, 'S', 0.0), State(1, 'R', 0.08), State(2, 'S', 0.0)}) ==
        "rank 1 (pid 101) has been computing while the others waited");
  CHECK(Lagging({State(0, 'R', 0.9), State(1, 'R', 0.3), State(2, 'R', 0.8)}).empty());
  CHECK(Lagging({State(0, 'S', 0, 60), State(1, 'S', 0, 90), State(2, 'S', 0, 61)}) ==
        "rank 1 (pid 101) has been silent the longest: 90.0 s, and the others for 61.0 s or less");
  CHECK(Lagging({State(0), State(1)}).empty());
  CHECK(Lagging({}).empty());
}

TEST_CASE("Python's traces tell who waits in a collective and who does not") {
  std::vector<RankState> states{State(0), State(1)};
  ReadPythonTrace(Trace("  File \"/v/lib/python3.13/site-packages/torch/distributed/"
                        "distributed_c10d.py\", line 4174 in all_reduce\n"
                        "  File \"/home/ana/train.py\", line 9 in step\n"),
                  states[0]);
  ReadPythonTrace(
      Trace("  File \"/v/lib/python3.13/site-packages/torch/utils/data/x.py\", line 1 in f\n"
            "  File \"/home/ana/train.py\", line 12 in load\n"
            "  File \"/home/ana/train.py\", line 40 in <module>\n"),
      states[1]);
  CHECK(states[0].in_collective == true);
  CHECK(states[1].in_collective == false);
  CHECK(Lagging(states) ==
        "rank 1 (pid 101) has not come to the collective that the others wait in: it is at "
        "train.py:12 in load");
  RankState none;
  ReadPythonTrace("epoch 3\n", none);
  CHECK_FALSE(none.in_collective);
}

TEST_CASE("a debugger's traces as well") {
  RankState waits, computes, unknown;
  ReadNativeTrace("Thread 1:\n#0 0x7f in epoll_wait ()\n#1 gloo::transport::tcp::Loop::run\n",
                  waits);
  ReadNativeTrace("PID 5\n#0  0x00 load()\n#1 main\n", computes);
  ReadNativeTrace("ptrace: Operation not permitted.\n", unknown);
  CHECK(waits.in_collective == true);
  CHECK(computes.in_collective == false);
  CHECK_FALSE(unknown.in_collective);
}

TEST_CASE("what other nodes are told of a rank comes back the same") {
  RankState state = At(3, 7, true, "broadcast");
  state.host = "node-b";
  state.cpu = 0.5;
  state.where = "train.py:1 in f";
  state.in_collective = false;
  const RankState back = ReadState(StateJson(state));
  CHECK(StateJson(back) == StateJson(state));
  CHECK(Lagging({back, At(4, 9)}) ==
        "rank 3 (pid 103 on node-b) has not come to all_reduce 9 of the default group; the last "
        "there was broadcast 7");
  CHECK(
      ReadState(nlohmann::json::parse(R"({"rank": "x", "reached": {"g": [1]}})")).reached.empty());
}

}  // namespace envkit
