#include "launch/hang.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

namespace envkit {
namespace {

using nlohmann::json;

std::string TextField(const json& object, const char* name) {
  const auto it = object.find(name);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

long long NumberField(const json& object, const char* name) {
  const auto it = object.find(name);
  return it != object.end() && it->is_number_integer() ? it->get<long long>() : 0;
}

std::string Name(const RankState& state) {
  return state.host.empty()
             ? fmt::format("rank {} (pid {})", state.rank, state.pid)
             : fmt::format("rank {} (pid {} on {})", state.rank, state.pid, state.host);
}

std::string Names(const std::vector<const RankState*>& states) {
  std::string names;
  for (std::size_t i = 0; i < states.size() && i < 4; ++i) {
    names += (i == 0 ? "" : ", ") + Name(*states[i]);
  }
  if (states.size() > 4) names += fmt::format(" and {} more", states.size() - 4);
  return names;
}

const char* Have(const std::vector<const RankState*>& states) {
  return states.size() == 1 ? "has" : "have";
}

// Of the group in which the ranks are furthest apart.
std::string LaggingInCollectives(const std::vector<RankState>& states) {
  std::set<std::string> groups;
  for (const RankState& state : states) {
    for (const auto& [group, last] : state.reached) groups.insert(group);
  }
  std::string text;
  long long apart = -1;
  for (const std::string& group : groups) {
    std::vector<const RankState*> members;
    for (const RankState& state : states) {
      if (state.reached.contains(group)) members.push_back(&state);
    }
    if (members.size() < 2) continue;
    const auto number = [&](const RankState* s) { return s->reached.at(group).number; };
    const auto [least, most] = std::minmax_element(
        members.begin(), members.end(),
        [&](const RankState* a, const RankState* b) { return number(a) < number(b); });
    const Collective& goal = (*most)->reached.at(group);
    const Collective& behind = (*least)->reached.at(group);
    if (goal.number - behind.number <= apart) continue;
    std::vector<const RankState*> late;
    for (const RankState* one : members) {
      if (number(one) == behind.number) late.push_back(one);
    }
    if (goal.number > behind.number) {
      apart = goal.number - behind.number;
      text = fmt::format("{} {} not come to {} {} of {}; the last there {} {} {}", Names(late),
                         Have(late), goal.name, goal.number, group, behind.done ? "was" : "is",
                         behind.name, behind.number);
    } else if (apart < 0 && !goal.done) {
      apart = 0;
      text = fmt::format(
          "every rank has come to {} {} of {}, and it does not end: the network or "
          "a GPU",
          goal.name, goal.number, group);
    }
  }
  return text;
}

// Those of the smaller side, where TEST divides the ranks whose side is known.
std::vector<const RankState*> Minority(const std::vector<RankState>& states,
                                       const std::vector<std::optional<bool>>& sides, bool side) {
  std::vector<const RankState*> few;
  std::size_t others = 0;
  for (std::size_t i = 0; i < states.size(); ++i) {
    if (!sides[i]) continue;
    if (*sides[i] == side) {
      few.push_back(&states[i]);
    } else {
      ++others;
    }
  }
  if (few.size() > others || others == 0) few.clear();
  return few;
}

std::string_view NextLine(std::string_view& rest) {
  const std::size_t end = std::min(rest.find('\n'), rest.size());
  const std::string_view line = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return line;
}

bool IsCollective(std::string_view frame) {
  static constexpr std::string_view kSigns[] = {
      "torch/distributed/", "c10d::",       "gloo::", "ncclKernel",
      "ncclGroupEnd",       "ProcessGroup", "MPI_"};
  return std::any_of(std::begin(kSigns), std::end(kSigns), [&](std::string_view sign) {
    return frame.find(sign) != std::string_view::npos;
  });
}

}  // namespace

bool ReadFlightRecord(std::string_view dump, RankState& state) {
  std::optional<json> record = ReadPickle(dump);
  if (!record) record = json::parse(dump, nullptr, false);
  if (!record->is_object()) return false;
  const auto entries = record->find("entries");
  if (entries == record->end() || !entries->is_array()) return false;
  for (const json& entry : *entries) {
    if (!entry.is_object()) continue;
    const auto point_to_point = entry.find("is_p2p");
    if (point_to_point != entry.end() && *point_to_point == true) continue;
    // ["0", "default_pg"]: the name may be a number that differs between ranks, so both count.
    std::string group = "the default group";
    const auto names = entry.find("process_group");
    if (names != entry.end() && names->is_array() && names->size() == 2 &&
        (*names)[1].is_string() && (*names)[1] != "default_pg" && (*names)[1] != "undefined") {
      group = fmt::format("group {}", (*names)[1].get<std::string>());
    }
    Collective one;
    one.number = NumberField(entry, "collective_seq_id");
    one.name = TextField(entry, "profiling_name");  // "nccl:all_reduce"
    one.name.erase(0, one.name.rfind(':') + 1);
    // Gloo leaves the state at "scheduled".
    const auto retired = entry.find("retired");
    one.done =
        TextField(entry, "state") == "completed" || (retired != entry.end() && *retired == true);
    Collective& last = state.reached[group];
    if (one.number >= last.number) last = std::move(one);
  }
  return true;
}

void ReadPythonTrace(std::string_view text, RankState& state) {
  const std::size_t current = text.rfind("Current thread 0x");
  if (current == std::string_view::npos) return;
  text.remove_prefix(current);
  NextLine(text);
  state.in_collective = false;
  while (!text.empty()) {
    const std::string_view line = NextLine(text);
    constexpr std::string_view kFile = "  File \"";
    if (!line.starts_with(kFile)) break;
    state.in_collective = *state.in_collective || IsCollective(line);
    const std::size_t quote = line.find('"', kFile.size());
    if (!state.where.empty() || quote == std::string_view::npos) continue;
    std::string file(line.substr(kFile.size(), quote - kFile.size()));
    // The user's own line says more than the library's below it.
    if (file.find("/site-packages/") != std::string::npos ||
        file.find("/dist-packages/") != std::string::npos || file.starts_with("<")) {
      continue;
    }
    file.erase(0, file.rfind('/') + 1);
    std::string place(line.substr(quote + 1));  // ", line 12 in load"
    constexpr std::string_view kLine = ", line ";
    if (place.starts_with(kLine)) place.replace(0, kLine.size(), ":");
    state.where = file + place;
  }
}

void ReadNativeTrace(std::string_view text, RankState& state) {
  bool any = false;
  bool collective = false;
  while (!text.empty()) {
    const std::string_view line = NextLine(text);
    if (!line.starts_with('#')) continue;
    any = true;
    collective |= IsCollective(line);
  }
  if (any) state.in_collective = collective;
}

std::string Lagging(const std::vector<RankState>& states) {
  std::vector<std::optional<bool>> sides;
  const auto split = [&](auto&& side_of, bool side) {
    sides.clear();
    for (const RankState& state : states) sides.push_back(side_of(state));
    return Minority(states, sides, side);
  };
  std::vector<const RankState*> odd;
  for (const RankState& state : states) {
    if (state.state == 'T' || state.state == 't') odd.push_back(&state);
  }
  if (!odd.empty()) {
    return fmt::format("{} {} been stopped (SIGSTOP or a debugger)", Names(odd), Have(odd));
  }
  if (std::string text = LaggingInCollectives(states); !text.empty()) return text;
  odd = split([](const RankState& s) { return s.in_collective; }, false);
  if (!odd.empty()) {
    const std::string& where = odd.front()->where;
    return fmt::format(
        "{} {} not come to the collective that the others wait in{}", Names(odd), Have(odd),
        where.empty()
            ? ""
            : fmt::format(": {} at {}", odd.size() == 1 ? "it is" : "the first is", where));
  }
  // Beside the busiest: other jobs may take the CPU from all of them.
  double most = 0;
  for (const RankState& state : states) most = std::max(most, state.cpu);
  const auto busy = [most](const RankState& s) -> std::optional<bool> {
    constexpr double kAnything = 0.05;
    if (most < kAnything || s.cpu < 0 || (s.cpu > most / 10 && s.cpu < most / 2)) {
      return std::nullopt;
    }
    return s.cpu >= most / 2;
  };
  if (odd = split(busy, true); !odd.empty() && odd.size() < states.size() - odd.size()) {
    return fmt::format("{} {} been computing while the others waited", Names(odd), Have(odd));
  }
  if (odd = split(busy, false); !odd.empty() && odd.size() < states.size() - odd.size()) {
    return fmt::format("{} {} been asleep while the others were busy", Names(odd), Have(odd));
  }
  if (states.size() < 2) return "";
  const auto longest = std::max_element(
      states.begin(), states.end(),
      [](const RankState& a, const RankState& b) { return a.silent_s < b.silent_s; });
  double next = 0;
  for (const RankState& state : states) {
    if (&state != &*longest) next = std::max(next, state.silent_s);
  }
  if (longest->silent_s - next < std::max(1.0, 0.1 * next)) return "";
  return fmt::format(
      "{} has been silent the longest: {:.1f} s, and the others for {:.1f} s or less",
      Name(*longest), longest->silent_s, next);
}

json StateJson(const RankState& state) {
  json reached = json::object();
  for (const auto& [group, last] : state.reached) {
    reached[group] = {last.number, last.name, last.done};
  }
  json one = {{"rank", state.rank},
              {"pid", state.pid},
              {"host", state.host},
              {"state", std::string(1, state.state)},
              {"silent", state.silent_s},
              {"cpu", state.cpu},
              {"reached", std::move(reached)},
              {"where", state.where}};
  if (state.in_collective) one["in"] = *state.in_collective;
  return one;
}

RankState ReadState(const json& one) {
  RankState state;
  if (!one.is_object()) return state;
  const auto decimal = [&](const char* name, double fallback) {
    const auto it = one.find(name);
    return it != one.end() && it->is_number() ? it->get<double>() : fallback;
  };
  state.rank = static_cast<int>(NumberField(one, "rank"));
  state.pid = static_cast<int>(NumberField(one, "pid"));
  state.host = TextField(one, "host");
  const std::string letter = TextField(one, "state");
  if (!letter.empty()) state.state = letter.front();
  state.silent_s = decimal("silent", 0);
  state.cpu = decimal("cpu", -1);
  state.where = TextField(one, "where");
  if (const auto it = one.find("in"); it != one.end() && it->is_boolean()) {
    state.in_collective = it->get<bool>();
  }
  const auto reached = one.find("reached");
  if (reached == one.end() || !reached->is_object()) return state;
  for (const auto& [group, last] : reached->items()) {
    if (!last.is_array() || last.size() != 3 || !last[0].is_number_integer() ||
        !last[1].is_string() || !last[2].is_boolean()) {
      continue;
    }
    state.reached[group] = {last[0], last[1], last[2]};
  }
  return state;
}

}  // namespace envkit
