#include "launch/report.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "launch/process.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kLineLimit = 300;

std::string ReadText(const fs::path& file, std::size_t limit = 1 << 20) {
  std::ifstream in(file, std::ios::binary);
  std::string text(limit, '\0');
  in.read(text.data(), static_cast<std::streamsize>(limit));
  text.resize(static_cast<std::size_t>(in.gcount()));
  return text;
}

// The number after "NAME " at the start of a line.
std::optional<std::uint64_t> Field(const std::string& text, std::string_view name) {
  std::istringstream in(text);
  std::string key;
  std::uint64_t value = 0;
  while (in >> key >> value) {
    if (key == name) return value;
  }
  return std::nullopt;
}

// "max" and the v1 way to say no limit (about 2^63) give nullopt.
std::optional<std::uint64_t> Limit(const fs::path& file) {
  const std::string text = ReadText(file, 64);
  if (text.empty() || text.front() < '0' || text.front() > '9') return std::nullopt;
  const std::uint64_t value = std::strtoull(text.c_str(), nullptr, 10);
  if (value >= std::uint64_t{1} << 60) return std::nullopt;
  return value;
}

struct MemoryCgroup {
  fs::path mount;   // where the controller is mounted
  fs::path inside;  // our group below it, without a leading slash
  bool v2 = false;
};

MemoryCgroup FindMemoryCgroup(const fs::path& root) {
  MemoryCgroup found;
  std::istringstream lines(ReadText(root / "proc/self/cgroup"));
  std::string line;
  while (std::getline(lines, line)) {  // "4:memory:/path", "0::/path"
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = fmt::format(",{},", line.substr(first + 1, second - first - 1));
    const fs::path inside = fs::path(line.substr(second + 1)).relative_path();
    if (controllers.find(",memory,") != std::string::npos) {
      return {root / "sys/fs/cgroup/memory", inside, false};
    }
    if (controllers == ",,") found = {root / "sys/fs/cgroup", inside, true};
  }
  return found;
}

std::string Clean(std::string_view line) {
  std::string clean;
  for (std::size_t i = 0; i < line.size() && clean.size() < kLineLimit; ++i) {
    const auto c = static_cast<unsigned char>(line[i]);
    if (c == 0x1b) {  // an escape sequence: ESC [ … final byte
      if (i + 1 < line.size() && line[i + 1] == '[') {
        i += 2;
        while (i < line.size() && (line[i] < '@' || line[i] > '~')) ++i;
      }
      continue;
    }
    if (c == '\t') {
      clean += ' ';
    } else if (c >= ' ' && c != 0x7f) {
      clean += line[i];
    }
  }
  // Not half a UTF-8 character at the cut.
  if (clean.size() == kLineLimit) {
    while (!clean.empty() && (static_cast<unsigned char>(clean.back()) & 0xc0) == 0x80) {
      clean.pop_back();
    }
    if (!clean.empty() && static_cast<unsigned char>(clean.back()) >= 0xc0) clean.pop_back();
    clean += "…";
  }
  return clean;
}

}  // namespace

std::string SignalName(int signal) {
  static constexpr std::array<std::pair<int, const char*>, 27> kNames{
      {{SIGHUP, "SIGHUP"},       {SIGINT, "SIGINT"},   {SIGQUIT, "SIGQUIT"},
       {SIGILL, "SIGILL"},       {SIGTRAP, "SIGTRAP"}, {SIGABRT, "SIGABRT"},
       {SIGBUS, "SIGBUS"},       {SIGFPE, "SIGFPE"},   {SIGKILL, "SIGKILL"},
       {SIGUSR1, "SIGUSR1"},     {SIGSEGV, "SIGSEGV"}, {SIGUSR2, "SIGUSR2"},
       {SIGPIPE, "SIGPIPE"},     {SIGALRM, "SIGALRM"}, {SIGTERM, "SIGTERM"},
       {SIGSTKFLT, "SIGSTKFLT"}, {SIGTSTP, "SIGTSTP"}, {SIGTTIN, "SIGTTIN"},
       {SIGTTOU, "SIGTTOU"},     {SIGXCPU, "SIGXCPU"}, {SIGXFSZ, "SIGXFSZ"},
       {SIGVTALRM, "SIGVTALRM"}, {SIGPROF, "SIGPROF"}, {SIGPOLL, "SIGPOLL"},
       {SIGPWR, "SIGPWR"},       {SIGSYS, "SIGSYS"},   {SIGSTOP, "SIGSTOP"}}};
  for (const auto& [number, name] : kNames) {
    if (number == signal) return name;
  }
  return fmt::format("signal {}", signal);
}

std::string EndText(const RankEnd& end) {
  const std::string who =
      fmt::format("rank {}{} (pid {}{})", end.rank, end.host.empty() ? "" : " on " + end.host,
                  end.pid, end.gpu.empty() ? "" : ", GPU " + end.gpu);
  return end.signal != 0
             ? fmt::format("{} ended with signal {} ({})", who, end.signal, SignalName(end.signal))
             : fmt::format("{} ended with exit code {}", who, end.code);
}

OomCounters ReadOomCounters(const fs::path& root) {
  OomCounters counters;
  const auto machine = Field(ReadText(root / "proc/vmstat"), "oom_kill");
  counters.machine = machine.value_or(0);
  counters.known = machine.has_value();
  const MemoryCgroup group = FindMemoryCgroup(root);
  if (group.mount.empty()) return counters;
  // In a container without a cgroup namespace the path is the host's, and our group is the mount.
  std::error_code error;
  fs::path inside = group.inside;
  if (!fs::is_directory(group.mount / inside, error)) inside.clear();
  const char* events = group.v2 ? "memory.events" : "memory.oom_control";
  const auto kills = Field(ReadText(group.mount / inside / events), "oom_kill");
  counters.cgroup = kills.value_or(0);
  counters.known |= kills.has_value();
  const char* limit_file = group.v2 ? "memory.max" : "memory.limit_in_bytes";
  while (true) {
    if (const auto limit = Limit(group.mount / inside / limit_file)) {
      counters.limit_bytes = std::min(counters.limit_bytes.value_or(*limit), *limit);
    }
    if (inside.empty()) break;
    inside = inside.has_parent_path() ? inside.parent_path() : fs::path();
  }
  return counters;
}

std::optional<std::string> ReadErrorFile(const fs::path& file) {
  const auto document = nlohmann::json::parse(ReadText(file), nullptr, false);
  if (!document.is_object()) return std::nullopt;
  auto message = document.find("message");
  if (message == document.end()) return std::nullopt;
  nlohmann::json text = *message;
  if (text.is_object()) text = text.value("message", nlohmann::json());
  if (!text.is_string()) return std::nullopt;
  std::istringstream lines(text.get<std::string>());
  std::string line;
  while (std::getline(lines, line)) {
    if (line = Clean(line); !line.empty()) return line;
  }
  return std::nullopt;
}

std::string CauseText(const RankEnd& end, const OomCounters& before, const OomCounters& after,
                      const std::optional<std::string>& python_error) {
  if (end.signal == SIGKILL) {
    if (after.cgroup > before.cgroup) {
      return after.limit_bytes
                 ? fmt::format("the kernel's OOM killer: memory cgroup limit {} reached",
                               MemoryText(*after.limit_bytes))
                 : "the kernel's OOM killer, in this memory cgroup";
    }
    if (after.machine > before.machine) {
      return "most likely the kernel's OOM killer: it ended a process on this machine meanwhile";
    }
    return after.known ? "SIGKILL came from outside; the kernel's OOM killer did not act"
                       : "SIGKILL came from outside, or from the kernel's OOM killer";
  }
  return python_error.value_or("");
}

std::vector<std::string> LastLines(std::string_view output, std::size_t count) {
  std::vector<std::string> lines;
  while (!output.empty() && lines.size() < count) {
    if (output.back() == '\n') output.remove_suffix(1);
    const std::size_t at = output.rfind('\n');
    std::string_view line = output.substr(at == std::string_view::npos ? 0 : at + 1);
    output.remove_suffix(line.size());
    while (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    line.remove_prefix(line.rfind('\r') == std::string_view::npos ? 0 : line.rfind('\r') + 1);
    std::string clean = Clean(line);
    if (clean.find_first_not_of(' ') != std::string::npos) lines.push_back(std::move(clean));
  }
  std::reverse(lines.begin(), lines.end());
  return lines;
}

std::string RankList(const std::vector<int>& ranks) {
  std::string list;
  for (std::size_t i = 0; i < ranks.size();) {
    std::size_t last = i;
    while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    if (last - i < 2) last = i;  // "0, 1", but "0-2"
    if (!list.empty()) list += ", ";
    list += last == i ? std::to_string(ranks[i]) : fmt::format("{}-{}", ranks[i], ranks[last]);
    i = last + 1;
  }
  return (ranks.size() == 1 ? "rank " : "ranks ") + list;
}

std::string DurationText(std::chrono::milliseconds time) {
  if (time < std::chrono::seconds(1)) return fmt::format("{} ms", time.count());
  return fmt::format("{:.1f} s", static_cast<double>(time.count()) / 1000);
}

std::string MemoryText(std::uint64_t bytes) {
  const char* const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 4) value /= 1024, ++unit;
  std::string number = fmt::format("{:.1f}", value);
  if (number.ends_with(".0")) number.resize(number.size() - 2);
  return number + " " + units[unit];
}

std::string FailureText(const FailureReport& report) {
  std::string text = report.headline + "\n";
  if (!report.cause.empty()) text += fmt::format("  cause   {}\n", report.cause);
  for (std::size_t i = 0; i < report.last.size(); ++i) {
    text += fmt::format("  {:<8}[{}] {}\n", i == 0 ? "last" : "", report.rank, report.last[i]);
  }
  if (report.symptom) {
    text +=
        fmt::format("  means   {}\n  do      {}\n", report.symptom->meaning, report.symptom->next);
  }
  std::string others;
  if (!report.stopped.empty()) {
    others = fmt::format("{} stopped in {}; ", RankList(report.stopped), DurationText(report.took));
  }
  if (!report.killed.empty()) {
    others += fmt::format("{} ignored SIGTERM for {} and {} killed; ", RankList(report.killed),
                          DurationText(report.grace), report.killed.size() == 1 ? "was" : "were");
  }
  if (report.left.empty()) {
    others += "no process is left";
  } else {
    others += "SIGKILL did not end ";
    for (const auto& one : report.left) others += (&one == report.left.data() ? "" : ", ") + one;
  }
  text += fmt::format("  others  {}\n", others);
  text += fmt::format("  next    {}log: {}\n",
                      report.out_of_memory
                          ? "lower the batch size or the loaders' workers, or raise the limit; "
                          : "",
                      report.log);
  return text + fmt::format("exit code {}\n", report.exit_code);
}

std::string CauseJson(const RankEnd& end, const FailureReport& report) {
  nlohmann::ordered_json root;
  root["rank"] = end.rank;
  root["pid"] = end.pid;
  root["exit_code"] = end.code;
  root["signal"] = nullptr;
  if (end.signal != 0) root["signal"] = SignalName(end.signal);
  if (!end.host.empty()) root["host"] = end.host;
  root["text"] = report.headline;
  if (!report.cause.empty()) root["cause"] = report.cause;
  if (report.symptom) root["symptom"] = report.symptom->name;
  return root.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

bool WriteOutcome(const fs::path& file, const Outcome& outcome) {
  nlohmann::ordered_json document;
  document["exit_code"] = outcome.exit_code;
  document["world_size"] = outcome.world_size;
  document["attempts"] = outcome.attempts;
  document["root_cause"] = nullptr;
  if (!outcome.cause.empty()) {
    document["root_cause"] = nlohmann::ordered_json::parse(outcome.cause, nullptr, false);
  }
  const std::string text =
      document.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  const fs::path temporary =
      file.parent_path() / fmt::format(".{}.{}", file.filename().string(), getpid());
  const Fd fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!fd) return false;
  const bool written =
      write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (written && rename(temporary.c_str(), file.c_str()) == 0) return true;
  unlink(temporary.c_str());
  return false;
}

}  // namespace envkit
