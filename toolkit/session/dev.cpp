#include "session/dev.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <optional>
#include <sstream>
#include <thread>

#include "base/files.h"
#include "base/process.h"
#include "engine/engine.h"
#include "image/image.h"
#include "project/project.h"
#include "session/builtin.h"
#include "session/keys.h"
#include "session/prepare.h"
#include "session/select_image.h"
#include "session/services.h"
#include "session/ssh_config.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using std::chrono::steady_clock;

void Sleep(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

fs::path Home() {
  const char* home = std::getenv("HOME");
  return home == nullptr ? "/" : home;
}

fs::path Inside(const SessionPlace& place) { return place.directory / "inside"; }
fs::path SshFile(const SessionPlace& place) { return place.state / "ssh" / (place.id + ".conf"); }

struct FoundSession {
  Project project;
  SessionPlace place;
};
Result<FoundSession> FindSession(const fs::path& directory) {
  FoundSession found;
  ENVKIT_TRY(found.project, LoadProject(directory));
  ENVKIT_TRY(found.place, FindSessionPlace(found.project.root, found.project.name));
  return found;
}

json ReadJson(const fs::path& file) {
  const auto text = ReadFile(file);
  return text ? json::parse(*text, nullptr, false) : json();
}

// Everything of a start that is decided before the container.
struct Start {
  int ssh = 0, jupyter = 0, tensorboard = 0;  // ports
  std::vector<std::string> names;             // for ssh
  std::string user;
};

Result<Start> PrepareFiles(const SessionPlace& place, const Project& project,
                           const DevRequest& request, const std::string& user) {
  Start start;
  start.user = user;
  const fs::path inside = Inside(place);
  ENVKIT_CHECK(RemoveTree(inside));  // of a session that was killed
  for (const fs::path& directory : {inside, place.directory / "home"}) {
    ENVKIT_CHECK(MakePrivateDirectory(directory));
  }
  if (request.port) {
    ENVKIT_TRY(start.ssh, StablePort(place, "ssh", IsFreePort));
  }
  ENVKIT_TRY(start.jupyter, StablePort(place, "jupyter", IsFreePort));
  ENVKIT_TRY(start.tensorboard, StablePort(place, "tensorboard", IsFreePort));
  for (const char* name : {"jupyter.token", "tensorboard.token"}) {
    ENVKIT_TRY(const std::string token, RandomToken());
    ENVKIT_CHECK(WriteFileAtomic(inside / name, token, 0600));
  }
  std::vector<Service> services;
  if (request.port) services.push_back(SshService(start.ssh));
  services.push_back(TensorboardService(start.tensorboard, kRunsInside, request.listen));
  services.push_back(JupyterService(start.jupyter, geteuid() == 0, request.listen));
  ENVKIT_CHECK(WriteFileAtomic(inside / "services.json", ServicesToJson(services).dump(1)));

  const fs::path keys = place.directory / "keys";
  start.names = SshNames(place, project.name);
  ENVKIT_TRY(const std::string host_key, ReadFile(keys / "ssh_host_ed25519_key"));
  ENVKIT_CHECK(WriteFileAtomic(inside / "ssh_host_ed25519_key", host_key, 0600));
  ENVKIT_TRY(const std::string authorized, AuthorizedKeys(place));
  ENVKIT_CHECK(WriteFileAtomic(inside / "authorized_keys", authorized, 0600));
  return start;
}

Result<void> WriteSshEntry(const SessionPlace& place, const Project& project, const Start& start,
                           const std::string& listen) {
  ENVKIT_CHECK(MakePrivateDirectory(place.state / "ssh"));
  SshEntry entry{start.names,
                 start.user,
                 start.ssh,
                 "",
                 place.directory / "keys/known_hosts",
                 {place.directory / "keys/id_ed25519"},
                 ReachableAt(listen)};
  if (start.ssh == 0) {
    std::error_code error;
    entry.proxy = ShellQuote({fs::read_symlink("/proc/self/exe", error).string(), "-C",
                              project.root.string(), "exec", "dev", "--", "/usr/sbin/sshd", "-i",
                              "-f", std::string(kSessionInside) + "/sshd_config"});
  }
  return WriteFileAtomic(SshFile(place), SshEntryText(entry), 0600);
}

// The last lines of the session's log, for an error.
std::string LogTail(const SessionPlace& place) {
  std::string text = ReadFile(place.directory / "session.log").value_or("");
  while (!text.empty() && text.back() == '\n') text.pop_back();
  std::size_t at = text.size();
  for (int lines = 0; lines < 10 && at != text.npos && at > 0; ++lines) {
    at = text.rfind('\n', at - 1);
  }
  return at == text.npos || at == 0 ? text : text.substr(at + 1);
}

// In a process of its own that outlives envkit: the session's keeper. Returns in the caller.
Result<void> StartKeeper(const SessionPlace& place, Engine& engine, const RunPlan& plan, json facts,
                         std::optional<FileLock>& up_lock) {
  ENVKIT_TRY(std::optional<FileLock> alive, FileLock::Acquire(place.directory / "session.lock"));
  const fs::path log = place.directory / "session.log";
  const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
  if (out < 0) return FileFailure("writing", log, errno);
  const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  const pid_t pid = fork();
  if (pid < 0) return Fail(ErrnoText("fork"));
  if (pid > 0) {
    close(out);
    close(null);
    return {};
  }
  setsid();
  signal(SIGHUP, SIG_IGN);
  up_lock.reset();
  dup2(null, 0);
  dup2(out, 1);
  dup2(out, 2);
  // Not the caller's output: who reads that until its end would wait for the session's.
  facts["pid"] = getpid();
  int code = 1;
  if (auto written = WriteFileAtomic(place.directory / "session.json", facts.dump(1), 0600)) {
    const Result<int> ran = engine.Run(plan);
    code = ran ? *ran : 1;
    if (!ran) dprintf(2, "%s", ran.error().Text().c_str());
  }
  _exit(code);
}

// How a person gets in; TOKENS as they stand in the session's files.
json Report(const SessionState& session) {
  const fs::path inside = Inside(session.place);
  json report = session.facts.is_object() ? session.facts : json::object();
  report["schema"] = 1;
  report["session"] = session.place.id;
  report["running"] = session.running;
  report["services"] = json::object();
  if (!session.running) return report;
  const json status = ReadJson(inside / "status.json");
  if (status.is_object()) report["services"] = status.value("services", json::object());
  const auto token = [&](const char* name) { return ReadFile(inside / name).value_or(""); };
  auto& services = report["services"];
  const std::string host = ReachableAt(report.value("listen", kLoopback));
  if (services.contains("jupyter")) {
    services["jupyter"]["url"] =
        JupyterUrl(services["jupyter"].value("port", 0), token("jupyter.token"), host);
  }
  if (services.contains("tensorboard")) {
    services["tensorboard"]["url"] =
        TensorboardUrl(services["tensorboard"].value("port", 0), token("tensorboard.token"), host);
  }
  return report;
}

// For another machine: what its ssh needs to come in.
Result<void> AddKeys(const SessionPlace& place, json& report) {
  const fs::path keys = place.directory / "keys";
  ENVKIT_TRY(const std::string identity, ReadFile(keys / "id_ed25519"));
  ENVKIT_TRY(std::string host_key, ReadFile(keys / "known_hosts"));  // NAME TYPE KEY COMMENT
  std::istringstream words(host_key);
  std::string name, type, key;
  words >> name >> type >> key;
  host_key = type + " " + key;
  report["keys"] = {
      {"user", report.value("user", "")}, {"identity", identity}, {"host_key", host_key}};
  return {};
}

std::string StateOf(const json& report, const std::string& service) {
  const json& services = report["services"];
  return services.contains(service) ? services[service].value("state", "unknown") : "absent";
}

void SayReport(const json& report, Terminal& terminal) {
  const std::string name = report.value("ssh_name", "");
  terminal.Answer(
      fmt::format("dev      {} · image {} · {} engine · {} → {}", report.value("project", ""),
                  report.value("config_digest", "").substr(0, 12), report.value("engine", ""),
                  report.value("root", ""), report.value("workdir", "")));
  terminal.Answer(fmt::format("ssh      ssh {0}    VS Code: code --remote ssh-remote+{0} {1}", name,
                              report.value("workdir", "/")));
  for (const auto& [service, state] : report["services"].items()) {
    std::string line = fmt::format("{:<8} ", service);
    line += state.contains("url") ? state.value("url", "")
                                  : std::string("port ") + std::to_string(state.value("port", 0));
    const std::string what = state.value("state", "");
    if (what != "running") line += " · " + what;
    if (const int restarts = state.value("restarts", 0); restarts > 0) {
      line += fmt::format(" · restarted {} {} (exit code {})", restarts,
                          restarts == 1 ? "time" : "times", state.value("last_exit", 0));
    }
    terminal.Answer(line);
  }
}

// Until every service answers. An Error where the keeper ended.
Result<json> WaitUntilReady(const SessionPlace& place, double seconds, double* ssh_after) {
  const auto begin = steady_clock::now();
  while (true) {
    ENVKIT_TRY(const SessionState session, ReadSession(place));
    if (!session.running) {
      return Fail("the session ended while it started:\n" + LogTail(place),
                  "All of its log: " + (place.directory / "session.log").string());
    }
    json report = Report(session);
    bool all = !report["services"].empty();
    for (const auto& [name, state] : report["services"].items()) {
      all = all && state.value("state", "") == "running";
      if (state.value("restarts", 0) >= 4) {
        return Fail(
            fmt::format("{} does not start; the session's log ends so:\n{}", name, LogTail(place)),
            "What does start goes on: envkit dev status, envkit dev down");
      }
    }
    if (*ssh_after < 0 && StateOf(report, "ssh") == "running") *ssh_after = SecondsSince(begin);
    if (all) return report;
    if (SecondsSince(begin) > seconds)
      return Fail("the session does not start; its log ends so:\n" + LogTail(place));
    Sleep(20);
  }
}

Result<void> IncludeInSshConfig(const fs::path& state, Terminal& terminal) {
  ENVKIT_TRY(const std::string line, IncludeLine(state, Home()));
  ENVKIT_TRY(const bool changed, AddInclude(Home() / ".ssh/config", line));
  if (changed) terminal.Step("ssh", "~/.ssh/config has a new first line: " + line);
  return {};
}

// What VS Code then offers to install, on this side and in the session.
Result<void> RecommendExtensions(const Project& project, Terminal& terminal) {
  const fs::path file = project.root / ".vscode/extensions.json";
  std::error_code error;
  if (fs::exists(file, error)) {
    terminal.Step("vscode", ".vscode/extensions.json is there already, and stays as it is");
    return {};
  }
  const json wanted = {{"recommendations",
                        {"ms-vscode-remote.remote-ssh", "ms-python.python", "ms-toolsai.jupyter",
                         "ms-vscode.cpptools", "ms-vscode.cmake-tools"}}};
  ENVKIT_CHECK(MakeDirectories(file.parent_path()));
  ENVKIT_CHECK(WriteFileAtomic(file, wanted.dump(2) + "\n"));
  terminal.Step("vscode", "wrote .vscode/extensions.json");
  return {};
}

// What the lock gives now, where it is not what runs.
std::string Difference(const fs::path& directory, const json& facts, const DevRequest& request) {
  const auto environment = LoadEnvironment(directory);
  if (!environment) return environment.error().what;
  const std::string variant =
      request.run.variant.empty() ? facts.value("variant", "") : request.run.variant;
  const auto plan = PlanCurrent(*environment, {"", "dev", variant});
  if (!plan) return "";
  const auto image = FindImage(*plan, environment->store);
  if (!image) return "";
  if (!*image) return "envkit.toml and envkit.lock now give another image, which is not built yet";
  if ((*image)->config_digest == facts.value("config_digest", "")) return "";
  return "envkit.toml and envkit.lock now give another image, " +
         (*image)->config_digest.substr(0, 12);
}

}  // namespace

Result<void> IncludeEntries(const fs::path& state, Terminal& terminal) {
  // A file that we must not touch is no reason to have no session.
  if (auto included = IncludeInSshConfig(state, terminal); !included) {
    terminal.Warn(included.error().what + "\n  " + included.error().next);
  }
  return {};
}

Result<SessionState> ReadSession(const SessionPlace& place) {
  SessionState session{place, false, ReadJson(place.directory / "session.json")};
  std::error_code error;
  if (!fs::exists(place.directory / "session.lock", error)) return session;
  bool busy = false;
  const auto lock = FileLock::TryAcquire(place.directory / "session.lock", busy);
  if (!lock && !busy) return Unexpected(lock.error());
  session.running = busy;
  return session;
}

Result<void> StopSession(const SessionState& session, double patience) {
  const SessionPlace& place = session.place;
  const pid_t pid = session.facts.is_object() ? session.facts.value("pid", 0) : 0;
  if (session.running && pid > 1) {
    kill(pid, SIGTERM);
    const auto begin = steady_clock::now();
    bool killed = false;
    while (true) {
      ENVKIT_TRY(const SessionState now, ReadSession(place));
      if (!now.running) break;
      if (!killed && SecondsSince(begin) > patience) {
        killed = true;
        kill(pid, SIGKILL);
      }
      if (SecondsSince(begin) > patience + 10)
        return Fail(fmt::format("the session's process {} does not end", pid));
      Sleep(20);
    }
  }
  // Tokens are of no use any more; keys, home directory and log stay.
  ENVKIT_CHECK(RemoveTree(Inside(place)));
  std::error_code ignored;
  fs::remove(place.directory / "session.json", ignored);
  return {};
}

Result<int> DevUp(const fs::path& directory, const DevRequest& request, bool json_wanted,
                  Terminal& terminal) {
  const auto begin = steady_clock::now();
  ENVKIT_TRY(const FoundSession found, FindSession(directory));
  const auto& [project, place] = found;
  if (request.vscode) ENVKIT_CHECK(RecommendExtensions(project, terminal));
  ENVKIT_CHECK(MakePrivateDirectory(place.directory));
  ENVKIT_TRY(std::optional<FileLock> up_lock, FileLock::Acquire(place.directory / "up.lock"));
  ENVKIT_TRY(SessionState session, ReadSession(place));
  if (session.running) {
    json report = Report(session);
    if (request.show_keys) ENVKIT_CHECK(AddKeys(place, report));
    terminal.Step("dev", fmt::format("runs since {}", report.value("started", "")));
    const std::string difference = Difference(directory, report, request);
    if (!difference.empty()) {
      terminal.Warn(difference + "\n  To change over:  envkit dev down && envkit dev up");
    }
    json_wanted ? terminal.Answer(report.dump(2)) : SayReport(report, terminal);
    return 0;
  }
  const std::optional<bool> open = IsOpenAddress(request.listen);
  if (!open) {
    return Usage("--listen " + request.listen + ": not an IPv4 address",
                 "Say it as: --listen 0.0.0.0");
  }
  if (*open) terminal.Warn(ListenWarning(request.listen));
  ENVKIT_CHECK(EnsureKeys(place));
  const HostFacts facts = ProbeHost();
  ENVKIT_TRY(const std::unique_ptr<Engine> engine, OpenEngine(request.run.engine));
  RunRequest run = request.run;
  run.builtin = "dev";
  run.session = Inside(place);
  run.home = place.directory / "home";
  run.arguments = {"python3", "-IS", "/opt/envkit/lib/session/supervise.py", kSessionInside};
  ENVKIT_CHECK(MakeDirectories(project.root / ".envkit" / "runs"));  // a mount of the session's
  ENVKIT_TRY(Prepared prepared, Prepare(directory, run, facts, terminal));
  RunSetting& setting = prepared.setting;
  setting.engine = engine->Name();
  const std::string user = setting.user.empty() ? "envkit" : setting.user;
  ENVKIT_TRY(const Start start, PrepareFiles(place, project, request, user));
  ENVKIT_CHECK(GiveToEngine(setting, *prepared.image, terminal));
  ENVKIT_TRY(RunPlan plan, PlanRun(project, run, setting, facts));
  plan.env["ENVKIT_SESSION"] = place.id;
  ENVKIT_CHECK(WriteAccounts(run, setting));
  ENVKIT_CHECK(WriteFileAtomic(Inside(place) / "sshd_config",
                               SshdConfig(start.ssh, user, plan.env, request.listen), 0600));
  ENVKIT_CHECK(WriteSshEntry(place, project, start, request.listen));
  const std::time_t now = std::time(nullptr);
  char stamp[32];
  std::strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  const json about = {
      {"project", project.name},         {"root", project.root.string()},
      {"workdir", plan.workdir},         {"engine", plan.engine},
      {"image", plan.image.name},        {"config_digest", plan.image.config_digest},
      {"variant", setting.variant},      {"gpus", plan.gpus},
      {"ssh_name", start.names.front()}, {"started", stamp},
      {"listen", request.listen},        {"user", user}};
  ENVKIT_CHECK(StartKeeper(place, *engine, plan, about, up_lock));
  if (request.ssh_config) ENVKIT_CHECK(IncludeEntries(place.state, terminal));
  const double prepared_s = SecondsSince(begin);
  double ssh_after = -1;
  ENVKIT_TRY(json report, WaitUntilReady(place, 90, &ssh_after));
  if (request.show_keys) ENVKIT_CHECK(AddKeys(place, report));
  report["ready_s"] = SecondsSince(begin);
  report["ssh_ready_s"] = nullptr;
  if (ssh_after >= 0) report["ssh_ready_s"] = prepared_s + ssh_after;
  json_wanted ? terminal.Answer(report.dump(2)) : SayReport(report, terminal);
  std::string ready = fmt::format("in {}", HumanSeconds(SecondsSince(begin)));
  if (ssh_after >= 0) ready += fmt::format(" (ssh in {})", HumanSeconds(prepared_s + ssh_after));
  // For another machine, that one's envkit says how.
  if (!request.show_keys) terminal.Step("ready", ready + " · stop with: envkit dev down");
  return 0;
}

Result<int> DevDown(const fs::path& directory, Terminal& terminal) {
  ENVKIT_TRY(const FoundSession found, FindSession(directory));
  std::error_code error;
  if (!fs::exists(found.place.directory, error)) {
    terminal.Step("dev", "no session runs");
    return 0;
  }
  ENVKIT_TRY(const FileLock lock, FileLock::Acquire(found.place.directory / "up.lock"));
  ENVKIT_TRY(const SessionState session, ReadSession(found.place));
  ENVKIT_CHECK(StopSession(session, 40));
  terminal.Step("dev", session.running ? "stopped; its home directory, keys and log are kept"
                                       : "no session runs");
  return 0;
}

Result<int> DevStatus(const fs::path& directory, bool json_wanted, Terminal& terminal) {
  ENVKIT_TRY(const FoundSession found, FindSession(directory));
  ENVKIT_TRY(const SessionState session, ReadSession(found.place));
  const json report = Report(session);
  if (json_wanted) {
    terminal.Answer(report.dump(2));
  } else if (session.running) {
    SayReport(report, terminal);
  } else {
    terminal.Answer(session.facts.is_object()
                        ? fmt::format("dev      not running; the session of {} ended without "
                                      "envkit dev down",
                                      session.facts.value("started", ""))
                        : "dev      not running");
  }
  return session.running ? 0 : 1;
}

Result<int> DevSshConfig(const fs::path& directory, bool print, Terminal& terminal) {
  ENVKIT_TRY(const FoundSession found, FindSession(directory));
  ENVKIT_TRY(const std::string line, IncludeLine(found.place.state, Home()));
  if (!print) {
    ENVKIT_CHECK(IncludeInSshConfig(found.place.state, terminal));
    return 0;
  }
  terminal.Answer(
      fmt::format("# The first line of {}:\n{}\n\n# {}:", (Home() / ".ssh/config").string(), line,
                  SshFile(found.place).string()));
  const auto text = ReadFile(SshFile(found.place));
  terminal.Answer(text ? *text : "# (written by envkit dev up)");
  return 0;
}

}  // namespace envkit
