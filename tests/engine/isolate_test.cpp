#include "engine/isolate.h"

#include <doctest/doctest.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "base/scratch.h"
#include "engine/namespaces.h"

namespace envkit {
namespace {

using namespace std::chrono_literals;

IsolateOptions Options() {
  IsolateOptions options;
  options.user_namespace = geteuid() != 0;
  return options;
}

// A machine's sysctls.
Error Explained(const std::vector<std::pair<std::string, std::string>>& sysctls) {
  const Scratch root;
  for (const auto& [name, value] : sysctls)
    REQUIRE(WriteFileAtomic(root / "proc/sys" / name, value + "\n"));
  return ExplainUserNamespaces(root.path(), "unshare: Operation not permitted");
}

std::string Fix(const std::string& setting) {
  return "  Allow it:  echo '" + setting +
         "' | sudo tee /etc/sysctl.d/60-envkit.conf && sudo sysctl --system\n"
         "  or use a daemon:  --engine docker\n";
}

// Ends once the only holders of the other end are gone.
bool Closes(int fd) {
  for (int i = 0; i < 500; ++i) {
    pollfd polled{fd, POLLIN, 0};
    if (poll(&polled, 1, 10) > 0) {
      char byte = 0;
      if (read(fd, &byte, 1) == 0) return true;
    }
  }
  return false;
}

}  // namespace

TEST_CASE("why an ordinary user cannot have a user namespace") {
  const Error debian =
      Explained({{"kernel/unprivileged_userns_clone", "0"}, {"user/max_user_namespaces", "0"}});
  CHECK(debian.code == ExitCode::kMissing);
  CHECK(debian.Text() ==
        "error: ordinary users may not make user namespaces here "
        "(kernel.unprivileged_userns_clone = 0): unshare: Operation not permitted\n" +
            Fix("kernel.unprivileged_userns_clone = 1"));
  CHECK(Explained({{"kernel/unprivileged_userns_clone", "1"}, {"user/max_user_namespaces", "0"}})
            .Text() ==
        "error: ordinary users may not make user namespaces here "
        "(user.max_user_namespaces = 0): unshare: Operation not permitted\n" +
            Fix("user.max_user_namespaces = 15000"));
  CHECK(Explained({{"user/max_user_namespaces", "63000"},
                   {"kernel/apparmor_restrict_unprivileged_userns", "1"}})
            .Text() ==
        "error: ordinary users may not make user namespaces here "
        "(kernel.apparmor_restrict_unprivileged_userns = 1): unshare: Operation not permitted\n" +
            Fix("kernel.apparmor_restrict_unprivileged_userns = 0"));
  const std::string policy =
      "error: an ordinary user could not make a user namespace: unshare: Operation not permitted\n"
      "  A seccomp or LSM policy may forbid it (in a container: its runtime's).\n"
      "  Run as root, or use --engine docker.\n";
  CHECK(Explained({}).Text() == policy);
  CHECK(Explained({{"kernel/unprivileged_userns_clone", "1"},
                   {"user/max_user_namespaces", "63000"},
                   {"kernel/apparmor_restrict_unprivileged_userns", "0"}})
            .Text() == policy);
  CHECK(Explained({}).code == ExitCode::kMissing);
}

TEST_CASE("root's capabilities in a container") {
  CHECK(DefaultCapabilities() == std::vector<int>{0, 1, 3, 4, 5, 6, 7, 10, 18, 29});
}

TEST_CASE("a body's result comes back, an error with all its words") {
  if (!NamespacesAllowed()) return;
  const auto value = RunIsolated(Options(), [](Isolated&) -> Result<int> { return 42; });
  REQUIRE(value);
  CHECK(*value == 42);
  const auto error = RunIsolated(Options(), [](Isolated&) -> Result<int> {
    return Wrap(Error{ExitCode::kPreempted, "lost \xff", "Find it.", {"looking"}, false},
                "outside");
  });
  REQUIRE(!error);
  CHECK(error.error().code == ExitCode::kPreempted);
  CHECK(error.error().Text() == "error: outside: looking: lost \xEF\xBF\xBD\n  Find it.\n");
  const auto killed = RunIsolated(Options(), [](Isolated&) -> Result<int> { _exit(3); });
  REQUIRE(!killed);
  CHECK(killed.error().Text() == "error: the container's first process was killed\n");
}

TEST_CASE("what comes before the namespaces may fail") {
  IsolateOptions options = Options();
  options.before = []() -> Result<void> { return Missing("no cgroup", "Make one."); };
  const auto result = RunIsolated(options, [](Isolated&) -> Result<int> { return 0; });
  REQUIRE(!result);
  CHECK(result.error().code == ExitCode::kMissing);
  CHECK(result.error().Text() == "error: no cgroup\n  Make one.\n");
}

TEST_CASE("the child's exit code, its signal, its output") {
  if (!NamespacesAllowed()) return;
  IsolateOptions options = Options();
  options.capture = true;
  for (const bool pid_namespace : {true, false}) {
    CAPTURE(pid_namespace);
    options.pid_namespace = pid_namespace;
    std::string output;
    const auto run = [&](const std::function<void()>& child) {
      output.clear();
      return RunIsolated(
                 options, [&](Isolated& isolated) { return isolated.RunChild(child); },
                 [&](std::string_view text) { output += text; })
          .value();
    };
    CHECK(run([] { execlp("sh", "sh", "-c", "echo out; echo err >&2; exit 9", nullptr); }) == 9);
    CHECK(output == "out\nerr\n");
    CHECK(run([] { execlp("sh", "sh", "-c", "kill -KILL $$", nullptr); }) == 137);
    CHECK(run([] { execlp("envkit-no-such", "x", nullptr); }) == 126);
    CHECK(run([] {
            execlp("sh", "sh", "-c",
                   "i=0; while [ $i -lt 30000 ]; do echo 0123456; i=$((i+1)); done", nullptr);
          }) == 0);
    CHECK(output.size() == 240'000);
  }
}

TEST_CASE("the namespaces are private") {
  if (!NamespacesAllowed()) return;
  const pid_t outside = getpid();
  IsolateOptions options = Options();
  const auto code = RunIsolated(options, [&](Isolated& isolated) -> Result<int> {
    if (isolated.user_namespace() != options.user_namespace) return 1;
    if (isolated.pid_namespace() ? getpid() != 1 : getpid() == 1) return 2;
    if (geteuid() != 0 || getegid() != 0) return 3;
    if (getsid(0) != getpid()) return 4;
    ENVKIT_CHECK(MountScratch());
    std::ofstream("seen-by-nobody") << outside;
    return 0;
  });
  REQUIRE_MESSAGE(code.has_value(), code.error().Text());
  CHECK(*code == 0);
  CHECK(!std::filesystem::exists("/sys/fs/cgroup/seen-by-nobody"));

  options.own_session = false;
  const pid_t session = getsid(0);
  options.pid_namespace = false;
  CHECK(RunIsolated(options, [&](Isolated& isolated) -> Result<int> {
          return isolated.pid_namespace() || getsid(0) != session ? 1 : 0;
        }).value() == 0);
}

TEST_CASE("signals to envkit reach the child") {
  if (!NamespacesAllowed()) return;
  const pid_t envkit = getpid();
  for (const bool pid_namespace : {true, false}) {
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2}) {
      CAPTURE(signal);
      CAPTURE(pid_namespace);
      const Scratch scratch;
      const std::string ready = (scratch / "ready").string();
      IsolateOptions options = Options();
      options.pid_namespace = pid_namespace;
      std::jthread sender([&] {
        sigset_t all;  // the process's signals are for the main thread
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, nullptr);
        for (int i = 0; i < 500 && !std::filesystem::exists(ready); ++i)
          std::this_thread::sleep_for(5ms);
        kill(envkit, signal);
      });
      const std::string script = "trap 'exit 40' " + std::to_string(signal) + "; : > " + ready +
                                 "; while :; do sleep 0.01; done";
      CHECK(RunIsolated(options, [&](Isolated& isolated) -> Result<int> {
              return isolated.RunChild([&] { execlp("sh", "sh", "-c", script.c_str(), nullptr); });
            }).value() == 40);
    }
  }
}

TEST_CASE("nothing outlives its command or envkit") {
  if (!NamespacesAllowed()) return;
  for (const bool pid_namespace : {true, false}) {
    for (const bool killed : {true, false}) {
      CAPTURE(pid_namespace);
      CAPTURE(killed);
      IsolateOptions options = Options();
      options.pid_namespace = pid_namespace;
      int ends[2];
      REQUIRE(pipe(ends) == 0);  // inherited: a process that lives holds it open
      const pid_t envkit = fork();
      if (envkit == 0) {
        close(ends[0]);
        static_cast<void>(RunIsolated(options, [&](Isolated& isolated) -> Result<int> {
          return isolated.RunChild([&] {
            dup2(ends[1], 9);
            execlp("sh", "sh", "-c",
                   killed ? "setsid sleep 60 & echo >&9; sleep 60"
                          : "setsid sleep 60 & echo >&9; exit 0",
                   nullptr);
          });
        }));
        _exit(0);
      }
      close(ends[1]);
      char byte = 0;
      REQUIRE(read(ends[0], &byte, 1) == 1);
      if (killed) kill(envkit, SIGKILL);
      CHECK(Closes(ends[0]));
      waitpid(envkit, nullptr, 0);
      close(ends[0]);
    }
  }
}

TEST_CASE("more layers than mount's options have room for; the highest wins") {
  if (!NamespacesAllowed()) return;
  const Scratch scratch;
  REQUIRE(chmod(scratch.path().c_str(), 0755) == 0);
  std::vector<std::filesystem::path> lower;
  for (int i = 0; i < 200; ++i) {
    lower.push_back(scratch / (std::string(60, 'x') + std::to_string(i)));
    REQUIRE(WriteFileAtomic(lower.back() / "last", std::to_string(i)));
    REQUIRE(WriteFileAtomic(lower.back() / ("own-" + std::to_string(i)), ""));
  }
  const auto mounted = [&](std::vector<std::filesystem::path> layers) {
    const IsolateOptions options = Options();
    return RunIsolated(options, [&](Isolated& isolated) -> Result<int> {
      ENVKIT_CHECK(MountScratch());
      ENVKIT_CHECK(MountOverlay(layers, isolated.user_namespace()));
      if (!std::filesystem::exists("root/own-0")) return -1;
      std::ofstream("root/last", std::ios::app) << "0";
      std::ofstream("root/new") << "new";
      return std::stoi(ReadFile("root/last").value());
    });
  };
  const auto last = mounted(lower);
  REQUIRE_MESSAGE(last.has_value(), last.error().Text());
  CHECK(*last == 1990);
  CHECK(ReadFile(lower.back() / "last").value() == "199");
  CHECK(!std::filesystem::exists(lower.back() / "new"));

  lower.push_back("/nonexistent/layer");
  CHECK(mounted(lower).error().Text() ==
        "error: the layer /nonexistent/layer: No such file or directory\n  Run: envkit build\n");
}

}  // namespace envkit
