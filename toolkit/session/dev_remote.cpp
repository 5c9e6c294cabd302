#include "session/dev_remote.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/process.h"
#include "session/environment.h"
#include "session/ssh_config.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kUrlForm = "Say it as: --on ssh://[USER@]HOST[:PORT][/DIRECTORY]";

// What may stand in ssh's files and on command lines without quotes.
bool IsPlainWord(std::string_view text) {
  return !text.empty() && text.size() <= 255 && text.front() != '-' &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '_' || c == '-';
         });
}

struct Elsewhere {
  RemoteHost host;
  std::string directory;
  fs::path state;  // …/envkit of this machine
};

Result<Elsewhere> FindElsewhere(const fs::path& directory, const std::string& url) {
  Elsewhere there;
  ENVKIT_TRY(there.host, ParseRemoteHost(url));
  if (!FindExecutable("ssh"))
    return Missing("--on needs ssh, which is not installed",
                   "Install it:  sudo apt-get install openssh-client");
  ENVKIT_TRY(const SessionPlace place, FindSessionPlace(directory, "remote"));
  there.state = place.state;
  there.directory = there.host.directory;
  if (there.directory.empty()) {
    ENVKIT_TRY(const Project project, LoadProject(directory));
    const char* home = std::getenv("HOME");
    there.directory = RemoteDirectory(project.root, home == nullptr ? "" : home);
  }
  return there;
}

Result<ProcessResult> RunThere(const Elsewhere& there, const std::vector<std::string>& arguments) {
  std::error_code error;
  const fs::path own = fs::read_symlink("/proc/self/exe", error);
  ENVKIT_TRY(
      ProcessResult done,
      RunProcess({.argv = RemoteCommand(there.host, there.directory, own.string(), arguments),
                  .inherit_input = true,
                  .err = Stream::kInherit}));
  constexpr int kSshFailed = 255;
  const std::string host = there.host.Text();
  if (done.exit_code == kSshFailed)
    return Missing(fmt::format("ssh does not get to {}; its own words are above", host),
                   "It must work by itself:  ssh " + host);
  if (done.exit_code == kNoRemoteDirectory) {
    const std::string port =
        there.host.port > 0 ? fmt::format("-e 'ssh -p {}' ", there.host.port) : "";
    const std::string account = (there.host.user.empty() ? "" : there.host.user + "@");
    return Usage(fmt::format("{} has no project in {}", host, there.directory),
                 fmt::format("Copy this one:  rsync -a {}--exclude .envkit ./ {}{}:{}/\n"
                             "or say where it is:  --on ssh://{}/DIRECTORY",
                             port, account, there.host.host, there.directory, host));
  }
  if (done.exit_code == kNoRemoteEnvkit)
    return Missing(host + " has no envkit, neither at this one's place nor on the PATH",
                   "Install it there, on the PATH of:  ssh " + host + " env");
  return done;
}

// The session's answer, checked: it goes into files that ssh reads.
struct RemoteSession {
  json report;
  std::string id, name, user, key, host_key;
  int port = 0;
};

Result<RemoteSession> ReadAnswer(const std::string& out) {
  RemoteSession session;
  // A shell's start-up file may have printed something before.
  const std::size_t at = out.find("{\n");
  session.report = json::parse(out.substr(std::min(at, out.size())), nullptr, false);
  const auto text = [&](const char* pointer) {
    const auto* found =
        session.report.is_object() && session.report.contains(json::json_pointer(pointer))
            ? &session.report.at(json::json_pointer(pointer))
            : nullptr;
    return found != nullptr && found->is_string() ? found->get<std::string>() : std::string();
  };
  session.id = text("/session");
  session.name = text("/ssh_name");
  session.user = text("/keys/user");
  session.key = text("/keys/identity");
  session.host_key = text("/keys/host_key");
  if (session.report.is_object() && session.report.contains("/services/ssh/port"_json_pointer)) {
    const json& port = session.report.at("/services/ssh/port"_json_pointer);
    session.port = port.is_number_integer() ? port.get<int>() : 0;
  }
  constexpr std::string_view kType = "ssh-ed25519 ";
  const bool pinned =
      session.host_key.starts_with(kType) &&
      std::all_of(session.host_key.begin() + kType.size(), session.host_key.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '+' || c == '/' || c == '=';
      });
  if (!IsPlainWord(session.id) || !IsPlainWord(session.name) || !IsPlainWord(session.user) ||
      session.port < 1 || session.port > 65535 || !pinned ||
      !session.key.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n")) {
    return Fail("its answer is not that of a session with ssh",
                "Its envkit may be another version than this one: envkit version, here and there.");
  }
  return session;
}

// Below the state directory: the entry for ssh, and the keys that it names.
fs::path EntryFile(const Elsewhere& there, const std::string& id) {
  return there.state / "ssh" / fmt::format("{}.{}.conf", id, there.host.host);
}
fs::path KeyDirectory(const Elsewhere& there, const std::string& id) {
  return there.state / "remote" / fmt::format("{}.{}", id, there.host.host);
}

Result<std::string> WriteEntry(const Elsewhere& there, const RemoteSession& session) {
  const fs::path keys = KeyDirectory(there, session.id);
  for (const fs::path& directory : {there.state / "ssh", there.state / "remote", keys}) {
    ENVKIT_CHECK(MakePrivateDirectory(directory));
  }
  const std::string name = session.name + "." + there.host.host;
  ENVKIT_CHECK(WriteFileAtomic(keys / "id_ed25519", session.key, 0600));
  ENVKIT_CHECK(
      WriteFileAtomic(keys / "known_hosts", fmt::format("{} {}\n", name, session.host_key), 0600));
  SshEntry entry{.names = {name},
                 .user = session.user,
                 .port = session.port,
                 .known_hosts = keys / "known_hosts",
                 .identities = {keys / "id_ed25519"}};
  entry.jump = there.host.Text();
  ENVKIT_CHECK(WriteFileAtomic(EntryFile(there, session.id), SshEntryText(entry), 0600));
  return name;
}

void SayWaysIn(const Elsewhere& there, const RemoteSession& session, const std::string& name,
               Terminal& terminal) {
  const json& report = session.report;
  terminal.Answer(fmt::format(
      "dev      {} on {} · image {} · {} engine", report.value("project", ""), there.host.Text(),
      report.value("config_digest", "").substr(0, 12), report.value("engine", "")));
  terminal.Answer(fmt::format("ssh      ssh {0}    VS Code: code --remote ssh-remote+{0} {1}", name,
                              report.value("workdir", "/")));
  std::string forwards;
  for (const auto& [service, state] : report["services"].items()) {
    if (!state.contains("url")) continue;
    terminal.Answer(fmt::format("{:<8} {}", service, state.value("url", "")));
    forwards += fmt::format(" -L {0}:127.0.0.1:{0}", state.value("port", 0));
  }
  terminal.Answer(
      fmt::format("forward  ssh -N{} {}    the links are good while it runs", forwards, name));
}

}  // namespace

std::string RemoteHost::Text() const {
  return (user.empty() ? "" : user + "@") + host + (port > 0 ? fmt::format(":{}", port) : "");
}

Result<RemoteHost> ParseRemoteHost(const std::string& url) {
  const auto wrong = [&](const char* why) {
    return Usage(fmt::format("--on {}: {}", url, why), kUrlForm);
  };
  constexpr std::string_view kScheme = "ssh://";
  if (!url.starts_with(kScheme)) return wrong("not an ssh:// address");
  std::string rest = url.substr(kScheme.size());
  RemoteHost parsed;
  if (const std::size_t slash = rest.find('/'); slash != rest.npos) {
    parsed.directory = rest.substr(slash);
    rest.erase(slash);
    if (parsed.directory.starts_with("/~/")) parsed.directory.erase(0, 1);
    while (parsed.directory.size() > 1 && parsed.directory.back() == '/')
      parsed.directory.pop_back();
    if (parsed.directory.find_first_of("\r\n") != parsed.directory.npos)
      return wrong("its directory has a line break");
  }
  if (const std::size_t at = rest.find('@'); at != rest.npos) {
    parsed.user = rest.substr(0, at);
    rest.erase(0, at + 1);
    if (!IsPlainWord(parsed.user)) return wrong("its user is none (no password belongs here)");
  }
  if (const std::size_t colon = rest.find(':'); colon != rest.npos) {
    const char* begin = rest.data() + colon + 1;
    const char* end = rest.data() + rest.size();
    const auto [stop, failure] = std::from_chars(begin, end, parsed.port);
    if (failure != std::errc() || stop != end || parsed.port < 1 || parsed.port > 65535)
      return wrong("its port is none");
    rest.erase(colon);
  }
  parsed.host = rest;
  if (!IsPlainWord(parsed.host)) return wrong("its host is none");
  return parsed;
}

std::string RemoteDirectory(const fs::path& root, const fs::path& home) {
  const fs::path below = root.lexically_relative(home);
  if (home.empty() || below.empty() || *below.begin() == "..") return root.string();
  return below == "." ? "~" : "~/" + below.string();
}

std::vector<std::string> RemoteCommand(const RemoteHost& host, const std::string& directory,
                                       const std::string& own,
                                       const std::vector<std::string>& arguments) {
  std::vector<std::string> argv = {"ssh"};
  if (host.port > 0) argv.insert(argv.end(), {"-p", std::to_string(host.port)});
  if (!host.user.empty()) argv.insert(argv.end(), {"-l", host.user});
  for (const char* option :
       {"ClearAllForwardings=yes", "PermitLocalCommand=no", "ConnectTimeout=15"})
    argv.insert(argv.end(), {"-o", option});
  const std::string place = directory == "~" ? "\"$HOME\""
                            : directory.starts_with("~/")
                                ? "\"$HOME\"/" + ShellQuote({directory.substr(2)})
                                : ShellQuote({directory});
  const std::string script = fmt::format(
      "cd {} 2>/dev/null && [ -f envkit.toml ] || exit {}; PATH=$PATH:$HOME/.local/bin; "
      "p={}; [ -x \"$p\" ] || p=$(command -v envkit) || exit {}; exec \"$p\" {}",
      place, kNoRemoteDirectory, ShellQuote({own}), kNoRemoteEnvkit, ShellQuote(arguments));
  // The user's shell may be another than sh.
  argv.insert(argv.end(), {"-T", "--", host.host, "exec " + ShellQuote({"sh", "-c", script})});
  return argv;
}

Result<int> DevUpOn(const fs::path& directory, const std::string& url, const DevRequest& request,
                    bool json_wanted, Terminal& terminal) {
  if (!request.port)
    return Usage("--no-port and --on: the way in is a port of that machine's loopback",
                 "Leave --no-port out: nobody else reaches that port from outside.");
  ENVKIT_TRY(const Elsewhere there, FindElsewhere(directory, url));
  std::vector<std::string> arguments{"dev", "up", "--json", "--show-keys", "--no-ssh-config"};
  const auto add = [&](const char* option, const std::string& value) {
    if (!value.empty()) arguments.insert(arguments.end(), {option, value});
  };
  add("--engine", request.run.engine == "auto" ? "" : request.run.engine);
  add("--variant", request.run.variant);
  add("--gpus", request.run.gpus);
  add("--memory", request.run.memory);
  add("--shm", request.run.shm);
  if (request.vscode) arguments.emplace_back("--vscode");
  terminal.Step("dev", fmt::format("on {}, in {}", there.host.Text(), there.directory));
  ENVKIT_TRY(const ProcessResult done, RunThere(there, arguments));
  if (done.exit_code != 0) return done.exit_code;  // its own words are above
  auto session = ReadAnswer(done.out);
  if (!session) return Wrap(std::move(session).error(), "the session on " + there.host.Text());
  ENVKIT_TRY(const std::string name, WriteEntry(there, *session));
  if (request.ssh_config) ENVKIT_CHECK(IncludeEntries(there.state, terminal));
  session->report.erase("keys");
  session->report["ssh_name"] = name;
  json_wanted ? terminal.Answer(session->report.dump(2))
              : SayWaysIn(there, *session, name, terminal);
  terminal.Step("ready", "stop with: envkit dev down --on " + url);
  return 0;
}

Result<int> DevDownOn(const fs::path& directory, const std::string& url) {
  ENVKIT_TRY(const Elsewhere there, FindElsewhere(directory, url));
  // Whose keys are of no use afterwards.
  ENVKIT_TRY(const ProcessResult status, RunThere(there, {"dev", "status", "--json"}));
  ENVKIT_TRY(const ProcessResult done, RunThere(there, {"dev", "down"}));
  const std::size_t at = status.out.find("{\n");
  const json report =
      json::parse(status.out.substr(std::min(at, status.out.size())), nullptr, false);
  const std::string id = report.is_object() ? report.value("session", "") : "";
  if (done.exit_code == 0 && IsPlainWord(id)) {
    std::error_code ignored;
    fs::remove(EntryFile(there, id), ignored);
    ENVKIT_CHECK(RemoveTree(KeyDirectory(there, id)));
  }
  return done.exit_code;
}

Result<int> DevStatusOn(const fs::path& directory, const std::string& url, bool json_wanted,
                        Terminal& terminal) {
  ENVKIT_TRY(const Elsewhere there, FindElsewhere(directory, url));
  std::vector<std::string> arguments{"dev", "status"};
  if (json_wanted) arguments.emplace_back("--json");
  ENVKIT_TRY(const ProcessResult done, RunThere(there, arguments));
  std::string text = done.out;
  while (!text.empty() && text.back() == '\n') text.pop_back();
  if (!text.empty()) terminal.Answer(text);
  return done.exit_code;
}

}  // namespace envkit
