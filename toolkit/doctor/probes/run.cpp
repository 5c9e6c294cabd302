#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "doctor/facts_json.h"
#include "doctor/probes/probes.h"

namespace envkit::doctor {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

template <class Section>
Probe Simple(const char* section, int limit, void (*probe)(const Root&, Section&),
             Section Facts::*part) {
  return {section, milliseconds(limit),
          [=](const Root& root, Facts& facts, const Publish&) { probe(root, facts.*part); }};
}

bool WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t put = write(fd, text.data(), text.size());
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(put));
  }
  return true;
}

// The child: publishes one line of JSON as often as it likes, and "." after the last.
[[noreturn]] void RunChild(const Probe& probe, const Root& root, int out) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setpgid(0, 0);  // what it starts is killed with it
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  for (const int signal : {SIGINT, SIGTERM, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGPIPE})
    ::signal(signal, SIG_DFL);
  // A library's words on stderr are no part of the report.
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (const int fd : {0, 1, 2}) dup2(null, fd);
  Facts facts;
  const Publish publish = [&] {
    WriteAll(out, Dump(SectionToJson(probe.section, facts), -1) + "\n");
  };
  try {
    probe.run(root, facts, publish);
  } catch (const std::exception& error) {
    MarkUnknown(probe.section, fmt::format("the probe failed: {}", error.what()), facts);
  }
  publish();
  WriteAll(out, ".\n");
  // Not exit(): destructors of a driver's library may hang as well.
  _exit(0);
}

struct Running {
  const Probe* probe = nullptr;
  pid_t pid = -1;
  int fd = -1;
  std::string text;
  steady_clock::time_point until;
};

Running Start(const Probe& probe, const Root& root, Facts& facts) {
  Running running;
  running.probe = &probe;
  running.until = steady_clock::now() + probe.limit;
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    MarkUnknown(probe.section, fmt::format("pipe2: {}", std::strerror(errno)), facts);
    return running;
  }
  running.pid = fork();
  if (running.pid == 0) {
    close(ends[0]);
    RunChild(probe, root, ends[1]);
  }
  close(ends[1]);
  if (running.pid < 0) {
    MarkUnknown(probe.section, fmt::format("fork: {}", std::strerror(errno)), facts);
    close(ends[0]);
    return running;
  }
  running.fd = ends[0];
  return running;
}

// The last whole line is what the probe knew last.
void Take(const Running& running, const std::string& ended, Facts& facts) {
  std::string_view text = running.text;
  const bool complete = text == ".\n" || text.ends_with("\n.\n");
  if (complete) text.remove_suffix(2);
  text = text.substr(0, text.rfind('\n') == text.npos ? 0 : text.rfind('\n'));
  const std::size_t start = text.rfind('\n');
  const std::string_view line = start == text.npos ? text : text.substr(start + 1);
  const std::string& section = running.probe->section;
  if (!line.empty()) ReadSection(section, nlohmann::json::parse(line, nullptr, false), facts);
  if (!complete) MarkUnknown(section, ended, facts);
}

std::string SecondsText(milliseconds time) {
  return fmt::format("{:g} s", static_cast<double>(time.count()) / 1000);
}

std::string EndText(int status) {
  if (WIFSIGNALED(status))
    return fmt::format("the probe crashed: signal {} (SIG{})", WTERMSIG(status),
                       sigabbrev_np(WTERMSIG(status)));
  return fmt::format("the probe ended with exit code {}", WEXITSTATUS(status));
}

void Finish(Running& running, bool timed_out, Facts& facts) {
  close(running.fd);
  running.fd = -1;
  if (timed_out) {
    kill(-running.pid, SIGKILL);
    kill(running.pid, SIGKILL);
    // One that waits in the kernel for a driver does not die: it is left to init, not waited for.
    waitpid(running.pid, nullptr, WNOHANG);
    return Take(running, "no answer within " + SecondsText(running.probe->limit), facts);
  }
  int status = 0;
  while (waitpid(running.pid, &status, 0) < 0 && errno == EINTR) {
  }
  Take(running, EndText(status), facts);
}

}  // namespace

const std::vector<Probe>& AllProbes() {
  static const std::vector<Probe> probes = {
      {"nvml", milliseconds(2000),
       [](const Root& root, Facts& facts, const Publish& publish) {
         ProbeNvml(root, facts.nvml, publish);
       }},
      Simple("engines", 2500, ProbeEngines, &Facts::engines),
      Simple("system", 1500, ProbeSystem, &Facts::system),
      Simple("storage", 1500, ProbeStorage, &Facts::storage),
      Simple("pci", 1500, ProbePci, &Facts::pci),
      Simple("driver", 1500, ProbeDriver, &Facts::driver),
      Simple("kernel_log", 1500, ProbeKernelLog, &Facts::kernel_log),
      Simple("network", 1500, ProbeNetwork, &Facts::network),
      Simple("python", 1500, ProbePython, &Facts::python),
  };
  return probes;
}

Facts RunProbes(const std::filesystem::path& root_path, const std::vector<Probe>& probes) {
  const Root root(root_path);
  Facts facts;
  facts.root = root_path.string();
  if (!root.live()) {
    // Plain files: nothing of a captured tree hangs, and there is no library of it to crash.
    for (const Probe& probe : probes) {
      try {
        probe.run(root, facts, [] {});
      } catch (const std::exception& error) {
        MarkUnknown(probe.section, fmt::format("the probe failed: {}", error.what()), facts);
      }
    }
    return facts;
  }
  std::vector<Running> running;
  running.reserve(probes.size());
  for (const Probe& probe : probes) running.push_back(Start(probe, root, facts));
  while (true) {
    std::vector<pollfd> polled;
    std::vector<Running*> who;
    auto until = steady_clock::time_point::max();
    for (Running& one : running) {
      if (one.fd < 0) continue;
      polled.push_back({one.fd, POLLIN, 0});
      who.push_back(&one);
      until = std::min(until, one.until);
    }
    if (polled.empty()) return facts;
    const auto left = std::chrono::ceil<milliseconds>(until - steady_clock::now());
    poll(polled.data(), polled.size(), static_cast<int>(std::max<std::int64_t>(0, left.count())));
    for (std::size_t i = 0; i < polled.size(); ++i) {
      Running& one = *who[i];
      char buffer[65536];
      const ssize_t got = polled[i].revents != 0 ? read(one.fd, buffer, sizeof buffer) : -1;
      if (got > 0) one.text.append(buffer, static_cast<std::size_t>(got));
      if (got == 0 || one.text.ends_with("\n.\n")) {
        Finish(one, false, facts);
      } else if (steady_clock::now() >= one.until) {
        Finish(one, true, facts);
      }
    }
  }
}

Facts ProbeMachine(const std::filesystem::path& root_path) {
  Facts facts = RunProbes(root_path, AllProbes());
  // This machine's project is the session's to find; a captured tree may hold one.
  const Root root(root_path);
  if (root.live()) {
    const std::chrono::year_month_day today(
        std::chrono::floor<std::chrono::days>(std::chrono::system_clock::now()));
    facts.date =
        fmt::format("{}-{:02}-{:02}", static_cast<int>(today.year()),
                    static_cast<unsigned>(today.month()), static_cast<unsigned>(today.day()));
  }
  const std::string project = root.live() ? "" : root.Read("/.envkit/project.json");
  if (!project.empty())
    ReadSection("project", nlohmann::json::parse(project, nullptr, false), facts);
  return facts;
}

}  // namespace envkit::doctor
