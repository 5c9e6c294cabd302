#include "launch/guard.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <string>

#include "launch/output.h"
#include "launch/report.h"

namespace envkit {
namespace {

using namespace std::chrono_literals;

// Ctrl-Z: the ranks stop as well, since they would keep their GPUs busy behind a stopped launcher.
void StopWithRanks(pid_t supervisor) {
  kill(supervisor, SIGTSTP);
  raise(SIGSTOP);
  kill(supervisor, SIGCONT);
}

}  // namespace

sigset_t WatchedSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal :
       {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGTSTP, SIGCONT, SIGCHLD}) {
    struct sigaction action {};
    sigaction(signal, nullptr, &action);
    if (action.sa_handler != SIG_IGN || signal == SIGCHLD) sigaddset(&set, signal);
  }
  return set;
}

void EndAllDescendants() {
  const auto give_up = std::chrono::steady_clock::now() + 10s;
  while (HasChildren() && std::chrono::steady_clock::now() < give_up) {
    SignalDescendants(SIGKILL);
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    usleep(1000);
  }
}

int RunGuarded(const std::function<int(Supervised)>& supervise) {
  Supervised child;
  // With SIGCHLD ignored, children would be reaped by the kernel and their exit codes lost.
  signal(SIGCHLD, SIG_DFL);
  child.watched = WatchedSignals();
  sigset_t blocked = child.watched;
  sigaddset(&blocked, SIGPIPE);  // a closed terminal is an error of write here, not our end
  sigaddset(&blocked, SIGTTOU);
  sigprocmask(SIG_BLOCK, &blocked, &child.rank_mask);
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return 1;
  child.parent_alive = Fd(ends[0]);
  Fd alive(ends[1]);
  const pid_t pid = fork();
  if (pid < 0) return 1;
  if (pid == 0) {
    alive.Close();
    setpgid(0, 0);  // a Ctrl-C of the terminal arrives once, through the parent
    prctl(PR_SET_NAME, "envkit-ranks");
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    _exit(supervise(std::move(child)));
  }
  child.parent_alive.Close();
  while (true) {
    siginfo_t info{};
    const int signal = sigwaitinfo(&child.watched, &info);
    if (signal == SIGTSTP) {
      StopWithRanks(pid);
    } else if (signal > 0 && signal != SIGCHLD && signal != SIGCONT) {
      kill(pid, signal);
    }
    int status = 0;
    pid_t ended = 0;
    while ((ended = waitpid(-1, &status, WNOHANG)) > 0) {
      if (ended != pid) continue;  // as PID 1 of a container we get everybody's orphans
      if (WIFEXITED(status)) return WEXITSTATUS(status);
      EndAllDescendants();
      const std::string text = fmt::format(
          "error: the launcher's supervisor (pid {}) ended with signal {} ({})\n"
          "  It took every rank with it; no process is left.\n",
          pid, WTERMSIG(status), SignalName(WTERMSIG(status)));
      Sink(STDERR_FILENO).Write(text);
      return 128 + WTERMSIG(status);
    }
  }
}

}  // namespace envkit
