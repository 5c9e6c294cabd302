#include "session/check_fleet.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <thread>

#include "base/files.h"
#include "base/process.h"
#include "base/text.h"
#include "doctor/facts_json.h"
#include "doctor/fleet.h"
#include "session/check_machine.h"
#include "session/driver.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

constexpr int kNoEnvkit = 97;  // the remote command's own, unlike any of ssh's and of envkit's

std::string LastLine(const std::string& text) {
  std::string last;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (!line.empty()) last = std::move(line);
    at = end + 1;
  }
  constexpr std::size_t kMost = 200;
  return last.substr(0, kMost);
}

// What one host's answer means.
doctor::Node Judge(const std::string& host, const Result<ProcessResult>& result,
                   const FleetRequest& request) {
  doctor::Node node;
  node.name = host;
  const auto silent = [&](std::string because, std::string next) {
    node.because = std::move(because);
    node.next = std::move(next);
    return node;
  };
  if (!result) {
    return silent(
        fmt::format("no answer within {} s", request.limit.count()),
        fmt::format("look there, or wait longer: --host-limit {}", 4 * request.limit.count()));
  }
  const std::string words = LastLine(result->err);
  constexpr int kSshFailed = 255;
  if (result->exit_code == kSshFailed)
    return silent(words.empty() ? "ssh failed" : words,
                  "ssh must get there without a password or "
                  "a question: ssh -o BatchMode=yes HOST");
  if (result->exit_code == kNoEnvkit)
    return silent("envkit is not there, neither at this one's place nor on the PATH",
                  "install it there, or send this one for the moment: --send");
  if (result->exit_code != 0) {
    return silent(
        fmt::format("exit code {}{}", result->exit_code, words.empty() ? "" : ": " + words),
        request.send ? "what was sent does not run there: install envkit on that host"
                     : "its envkit may be older than this one: send this one: --send");
  }
  // A shell's start-up file may have printed something before.
  const std::size_t at = result->out.find("{\n");
  auto facts = doctor::FactsFromJson(result->out.substr(std::min(at, result->out.size())));
  if (!facts)
    return silent("its envkit answered no facts: " + facts.error().what,
                  "it may be older than this one: send this one: --send");
  node.facts = std::move(*facts);
  return node;
}

Result<std::string> HostList(const FleetRequest& request) {
  if (request.hosts != "slurm") return request.hosts;
  for (const char* name : {"SLURM_JOB_NODELIST", "SLURM_NODELIST"})
    if (const char* list = std::getenv(name); list != nullptr && *list != '\0') return list;
  return Usage("--hosts slurm: this is no Slurm allocation: SLURM_JOB_NODELIST is not set",
               "Make one:  salloc -N 2 envkit doctor --hosts slurm\n"
               "or name the hosts:  --hosts gpu[01-02]");
}

}  // namespace

std::vector<std::string> SshCommand(const std::string& host, const FleetRequest& request,
                                    const std::string& own) {
  std::vector<std::string> argv = {"ssh"};
  if (!request.ssh_config.empty()) argv.insert(argv.end(), {"-F", request.ssh_config});
  for (const std::string& option :
       {std::string("BatchMode=yes"), std::string("PasswordAuthentication=no"),
        std::string("KbdInteractiveAuthentication=no"), std::string("UpdateHostKeys=no"),
        std::string("ControlMaster=no"), std::string("ClearAllForwardings=yes"),
        std::string("PermitLocalCommand=no"), std::string("LogLevel=ERROR"),
        fmt::format("ConnectTimeout={}", std::max<long>(1, request.limit.count() / 2))})
    argv.insert(argv.end(), {"-o", option});
  std::string script;
  if (request.send) {
    script =
        "d=$(mktemp -d) || exit 1; trap \"rm -rf $d\" EXIT; cat >$d/envkit && "
        "chmod 700 $d/envkit && $d/envkit doctor --save -";
  } else {
    script = fmt::format(
        "p={}; [ -x \"$p\" ] || p=$(command -v envkit) || exit {}; exec \"$p\" doctor --save -",
        ShellQuote({own}), kNoEnvkit);
  }
  // The user's shell may be another than sh.
  argv.insert(argv.end(),
              {"-a", "-x", "-T", "--", host, "exec " + ShellQuote({"sh", "-c", script})});
  return argv;
}

Result<int> CheckFleet(const fs::path& directory, const FleetRequest& request, Terminal& terminal) {
  const auto begin = std::chrono::steady_clock::now();
  ENVKIT_TRY(const std::string list, HostList(request));
  ENVKIT_TRY(const std::vector<std::string> hosts, doctor::ParseNodes(list));
  if (!FindExecutable("ssh"))
    return Missing("--hosts needs ssh, which is not installed",
                   "Install it:  sudo apt-get install openssh-client");
  std::error_code error;
  const fs::path own = fs::read_symlink("/proc/self/exe", error);
  std::string program;
  if (request.send) {
    ENVKIT_TRY(program, ReadFile(own));
  }
  std::vector<doctor::Node> nodes(hosts.size());
  std::atomic<std::size_t> next{0};
  const auto ask = [&] {
    for (std::size_t i = next++; i < hosts.size(); i = next++) {
      ProcessSpec spec;
      spec.argv = SshCommand(hosts[i], request, own.string());
      spec.cwd = directory;
      if (request.send) spec.input = program;
      spec.timeout = request.limit;
      nodes[i] = Judge(hosts[i], RunProcess(spec), request);
    }
  };
  constexpr std::size_t kAtOnce = 64;  // they mostly wait
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < std::min(hosts.size(), kAtOnce); ++i) threads.emplace_back(ask);
  for (std::thread& thread : threads) thread.join();
  // What is to run on them is this machine's project.
  const doctor::ProjectFacts project = FindProject(directory);
  const Result<Matrix> matrix = OwnMatrix();
  for (doctor::Node& node : nodes) {
    if (!node.facts) continue;
    node.facts->project = project;
    node.diagnosis = doctor::Diagnose(*node.facts, matrix);
  }
  if (request.json) {
    terminal.Answer(
        doctor::FleetJson(nodes).dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    doctor::ReportStyle style = StyleOf(terminal);
    style.seconds = SecondsSince(begin);
    terminal.Answer(doctor::FleetText(nodes, style));
  }
  return doctor::FleetVerdict(nodes) == "fail" ? 1 : 0;
}

}  // namespace envkit
