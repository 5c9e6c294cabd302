// Which rank holds the others up, from what can be seen of each from outside: whether it is
// stopped, what torch's flight recorder says of its collectives, where its stack is, how it uses
// the CPU, when it last printed. Pure functions over what the supervisor has read.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace envkit {

struct Collective {
  long long number = 0;  // as the group counts them
  std::string name;      // "all_reduce"
  bool done = false;
};

struct RankState {
  int rank = 0;
  int pid = 0;
  std::string host;     // empty where there is only one node
  char state = '?';     // as /proc/PID/stat has it
  double silent_s = 0;  // since it last printed, or since the start
  double cpu = -1;      // cores that it used while nobody printed; -1: not known
  std::map<std::string, Collective> reached;  // the last one of each process group
  std::string where;                          // "train.py:12 in load"; empty: not known
  std::optional<bool> in_collective;          // its stack is in one
};

// What torch's flight recorder dumped (a pickle, or JSON). False where it is neither.
bool ReadFlightRecord(std::string_view dump, RankState& state);

// What faulthandler printed at the end of a Python rank's stderr.
void ReadPythonTrace(std::string_view text, RankState& state);
// What gdb or eu-stack printed.
void ReadNativeTrace(std::string_view text, RankState& state);

// "rank 1 (pid 7) has not come to all_reduce 37 …"; "" where nothing tells the ranks apart.
std::string Lagging(const std::vector<RankState>& states);

nlohmann::json StateJson(const RankState& state);
RankState ReadState(const nlohmann::json& json);

// The values of a pickle that hold no objects but dictionaries, lists, tuples, strings, numbers:
// torch's dumps, not pickles in general. nullopt: it holds others, or is cut off. Nothing is run.
std::optional<nlohmann::json> ReadPickle(std::string_view bytes);

}  // namespace envkit
