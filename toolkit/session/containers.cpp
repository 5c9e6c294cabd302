#include "session/containers.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>

#include "base/files.h"
#include "engine/enter.h"
#include "project/project.h"
#include "session/dev.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Where the command was given; outside of any project there is none.
fs::path RootOf(const fs::path& directory) {
  const auto project = LoadProject(directory);
  return project ? project->root : fs::path();
}

// What FILE has beyond AT.
std::string Beyond(const fs::path& file, std::streamoff& at) {
  std::ifstream in(file, std::ios::binary);
  in.seekg(at);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  // A line that is still being written is left for the next time.
  text.resize(text.rfind('\n') == text.npos ? 0 : text.rfind('\n') + 1);
  at += static_cast<std::streamoff>(text.size());
  return text;
}

// Every output file of a run's ranks, with the rank that wrote it.
std::map<fs::path, std::string> RankFiles(const fs::path& record) {
  std::map<fs::path, std::string> files;
  std::error_code error;
  for (fs::recursive_directory_iterator it(record / "log", error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name == "stdout.log" || name == "stderr.log") {
      files[it->path()] = it->path().parent_path().filename().string();
    }
  }
  return files;
}

void Print(const std::string& prefix, const std::string& text, Terminal& terminal) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    out += prefix + text.substr(at, end - at) + "\n";
    at = end + 1;
  }
  if (!out.empty()) terminal.Answer(out);
}

bool HasEnded(const fs::path& record) {
  const auto text = ReadFile(record / "summary.json");
  const json summary = text ? json::parse(*text, nullptr, false) : json();
  return !summary.is_object() || !summary.value("exit_code", json()).is_null();
}

// The newest record of that job or name; empty NAME: `latest`.
Result<fs::path> FindRecord(const fs::path& root, const std::string& name) {
  const fs::path runs = root / ".envkit" / "runs";
  std::error_code error;
  fs::path best;
  if (name.empty()) {
    best = fs::canonical(runs / "latest", error);
  } else {
    for (const auto& entry : fs::directory_iterator(runs, error)) {
      const std::string own = entry.path().filename().string();
      // "<time>-<job>", or that and "-2".
      const std::size_t dash = own.find('-');
      const bool of_job = dash != own.npos && (own.substr(dash + 1) == name ||
                                               own.substr(dash + 1).starts_with(name + "-"));
      if (own == name) return entry.path();
      if (of_job && entry.path() > best) best = entry.path();
    }
  }
  if (!best.empty()) return best;
  return Usage(name.empty() ? "this project has no runs yet" : "no run is called " + name,
               "They are in " + runs.string());
}

}  // namespace

std::string ContainersText(const std::vector<RunningContainer>& containers) {
  if (containers.empty()) return "nothing of envkit runs";
  std::size_t width = 4;
  for (const RunningContainer& one : containers) width = std::max(width, one.name.size());
  std::string text = fmt::format("{:<{}}  {:<6}  {:<11}  {:>9}  {}\n", "name", width, "engine",
                                 "job", "processes", "project");
  for (const RunningContainer& one : containers) {
    text += fmt::format("{:<{}}  {:<6}  {:<11}  {:>9}  {}\n", one.name, width, one.engine,
                        one.job.empty() ? "-" : one.job, one.pids.size(),
                        one.project.empty() ? "-" : one.project.string());
  }
  return text;
}

json ContainersToJson(const std::vector<RunningContainer>& containers) {
  json list = json::array();
  for (const RunningContainer& one : containers) {
    json entry = {{"name", one.name},       {"engine", one.engine}, {"job", one.job},
                  {"session", one.session}, {"pids", one.pids},     {"project", nullptr}};
    if (!one.project.empty()) entry["project"] = one.project.string();
    list.push_back(std::move(entry));
  }
  return {{"schema", 1}, {"containers", std::move(list)}};
}

Result<RunningContainer> ChooseContainer(const std::vector<RunningContainer>& containers,
                                         const std::string& name, const fs::path& root) {
  std::vector<RunningContainer> fitting, near;
  for (const RunningContainer& one : containers) {
    if (one.name == name) return one;
    if (!name.empty() && one.job != name) continue;
    fitting.push_back(one);
    if (!root.empty() && one.project == root) near.push_back(one);
  }
  // In a project its own are meant; who means another's, another user's perhaps, says its name.
  const auto& chosen = root.empty() ? fitting : near;
  if (chosen.size() == 1) return chosen.front();
  const auto names = [](const std::vector<RunningContainer>& all) {
    std::string text;
    for (const RunningContainer& one : all) text += "\n  " + one.name;
    return text;
  };
  if (!chosen.empty()) return Usage("several run; say which one:" + names(chosen));
  if (!fitting.empty()) {
    return Usage(name.empty() ? "nothing of this project runs"
                              : "nothing of this project that runs is called " + name,
                 "Other projects have, to be named so:" + names(fitting));
  }
  return Usage(name.empty() ? "nothing of envkit runs" : "nothing that runs is called " + name,
               "What runs:  envkit ps");
}

Result<int> ListContainers(bool json_wanted, Terminal& terminal) {
  ENVKIT_TRY(const std::vector<RunningContainer> containers, FindRunning("auto"));
  terminal.Answer(json_wanted ? ContainersToJson(containers).dump(2) : ContainersText(containers));
  return 0;
}

Result<int> StopByName(const fs::path& directory, const std::string& name, double patience,
                       Terminal& terminal) {
  ENVKIT_TRY(const std::vector<RunningContainer> containers, FindRunning("auto"));
  ENVKIT_TRY(const RunningContainer one, ChooseContainer(containers, name, RootOf(directory)));
  if (one.session.empty()) {
    ENVKIT_CHECK(StopContainer(one, patience));
  } else {  // as `dev down`, wherever it was started
    ENVKIT_TRY(SessionPlace place, FindSessionPlace("/", ""));
    place.id = one.session;
    place.directory = place.state / "sessions" / place.id;
    ENVKIT_TRY(const SessionState session, ReadSession(place));
    ENVKIT_CHECK(session.running ? StopSession(session, patience) : StopContainer(one, patience));
  }
  terminal.Step("stopped", one.name);
  return 0;
}

Result<int> ExecByName(const fs::path& directory, const std::string& name,
                       const std::vector<std::string>& argv) {
  ENVKIT_TRY(const std::vector<RunningContainer> containers, FindRunning("auto"));
  ENVKIT_TRY(const RunningContainer one, ChooseContainer(containers, name, RootOf(directory)));
  return EnterContainer(one, argv);
}

Result<int> ShowLogs(const fs::path& directory, const std::string& name, bool follow,
                     Terminal& terminal) {
  ENVKIT_TRY(const Project project, LoadProject(directory));
  ENVKIT_TRY(const SessionPlace place, FindSessionPlace(project.root, project.name));
  std::map<fs::path, std::streamoff> read;
  fs::path record;
  if (name != "dev") {
    ENVKIT_TRY(record, FindRecord(project.root, name));
    terminal.Step("logs", record.string());
  }
  while (true) {
    // Asked before reading, so that the last words are read.
    bool ended = true;
    if (name == "dev") {
      ENVKIT_TRY(const SessionState session, ReadSession(place));
      ended = !session.running;
      const fs::path file = place.directory / "session.log";
      Print("", Beyond(file, read[file]), terminal);
    } else {
      ended = HasEnded(record);
      for (const auto& [file, rank] : RankFiles(record)) {
        Print(fmt::format("[{}] ", rank), Beyond(file, read[file]), terminal);
      }
    }
    if (ended || !follow) return 0;
    usleep(200'000);
  }
}

}  // namespace envkit
