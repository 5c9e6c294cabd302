#include "launch/init.h"

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "launch/guard.h"
#include "launch/plan.h"
#include "launch/process.h"

namespace envkit {
namespace {

Unexpected CannotRun(const std::string& name, const std::string& path, int error) {
  if (error == ENOENT && path.find('/') != std::string::npos && access(path.c_str(), F_OK) == 0) {
    return Fail(fmt::format("cannot run {}: the interpreter in its first line is missing", path),
                "", static_cast<ExitCode>(127));
  }
  if (error == ENOENT) {
    const bool on_path = name.find('/') == std::string::npos;
    return Fail(fmt::format("there is no program {}{}", name, on_path ? " on PATH" : ""),
                on_path ? "Add its package to envkit.toml, or give the path to it." : "",
                static_cast<ExitCode>(127));
  }
  const char* why = error == EACCES    ? "it is not an executable file"
                    : error == ENOEXEC ? "it is neither a program nor a script with #!"
                                       : std::strerror(error);
  return Fail(fmt::format("cannot run {}: {}", path, why), "", static_cast<ExitCode>(126));
}

}  // namespace

Result<int> RunAsInit(const std::vector<std::string>& program) {
  if (program.empty()) return Usage("--init needs a program", "For example: --init -- bash");
  const auto env = OwnEnvironment();
  const auto path = env.find("PATH");
  const FoundProgram found =
      FindProgram(program.front(), path == env.end() ? "/usr/bin:/bin" : path->second);
  if (found.error != 0) return CannotRun(program.front(), found.path, found.error);

  // Everything but what a fault of ours raises goes to the program.
  sigset_t forwarded;
  sigfillset(&forwarded);
  for (const int signal : {SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGABRT, SIGTRAP, SIGSYS}) {
    sigdelset(&forwarded, signal);
  }
  signal(SIGCHLD, SIG_DFL);
  const bool first = getpid() == 1;
  if (!first) prctl(PR_SET_CHILD_SUBREAPER, 1);
  SpawnSpec spec;
  sigprocmask(SIG_BLOCK, &forwarded, &spec.mask);
  spec.program = found.path;
  spec.argv = program;
  spec.env = MergedEnvironment(env, {});
  // On a terminal the program gets it, so that Ctrl-C and job control are the program's own.
  const bool terminal = isatty(STDIN_FILENO) == 1 && tcgetpgrp(STDIN_FILENO) == getpgrp();
  spec.foreground = terminal;
  spec.die_with_parent = !first;
  const Spawned spawned = Spawn(spec);
  if (spawned.pid < 0) return CannotRun(program.front(), found.path, spawned.error);

  std::optional<int> code;
  while (!code) {
    siginfo_t info{};
    const int signal = sigwaitinfo(&forwarded, &info);
    // Without a terminal of its own the program is in our group, and the kernel told it as well.
    const bool told = !terminal && info.si_code == SI_KERNEL;
    if (signal > 0 && signal != SIGCHLD && signal != SIGTTIN && signal != SIGTTOU && !told) {
      kill(spawned.pid, signal);
    }
    int status = 0;
    pid_t ended = 0;
    while ((ended = waitpid(-1, &status, WNOHANG)) > 0) {
      if (ended != spawned.pid) continue;
      code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
  }
  if (!first) EndAllDescendants();  // for PID 1 the kernel does it
  if (terminal) tcsetpgrp(STDIN_FILENO, getpgrp());
  return *code;
}

}  // namespace envkit
