#include "engine/enter.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>

#include "base/process.h"
#include "engine/engine.h"
#include "engine/isolate.h"

namespace envkit {
namespace {

struct Namespace {
  const char* name;
  int flag;
};
// The user namespace first: it gives the right to the others.
constexpr Namespace kNamespaces[] = {{"user", CLONE_NEWUSER}, {"ipc", CLONE_NEWIPC},
                                     {"uts", CLONE_NEWUTS},   {"net", CLONE_NEWNET},
                                     {"pid", CLONE_NEWPID},   {"mnt", CLONE_NEWNS}};

Result<void> JoinNamespaces(long pid) {
  std::vector<std::pair<int, Namespace>> opened;
  for (const Namespace& space : kNamespaces) {
    const std::string file = fmt::format("/proc/{}/ns/{}", pid, space.name);
    struct stat theirs {
    }, ours{};
    if (stat(file.c_str(), &theirs) != 0) return Fail(ErrnoText("the container is gone: " + file));
    if (stat(fmt::format("/proc/self/ns/{}", space.name).c_str(), &ours) == 0 &&
        theirs.st_ino == ours.st_ino) {
      continue;
    }
    const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return Fail(ErrnoText("opening " + file));
    opened.emplace_back(fd, space);
  }
  for (const auto& [fd, space] : opened) {
    if (setns(fd, space.flag) != 0)
      return Fail(ErrnoText(fmt::format("entering the container's {} namespace", space.name)));
    close(fd);
  }
  return {};
}

// What a container's own processes have, and no more. Ordinary users lose all of it with execve.
bool LowerCapabilities() {
  const auto& kept = DefaultCapabilities();
  std::uint64_t mask = 0;
  for (const int capability : kept) mask |= 1ull << capability;
  for (int capability = 0; capability < 64; ++capability) {
    if ((mask >> capability & 1) == 0) prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
  }
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (syscall(SYS_capget, &header, data) != 0) return false;
  for (int word = 0; word < 2; ++word) {
    const auto part = static_cast<std::uint32_t>(mask >> (32 * word));
    data[word].effective &= part;
    data[word].permitted &= part;
    data[word].inheritable = 0;
  }
  return syscall(SYS_capset, &header, data) == 0;
}

[[noreturn]] void Become(const RunningContainer& container, const std::vector<std::string>& argv) {
  const auto fail = [](const char* what) {
    dprintf(2, "error: %s\n", ErrnoText(what).c_str());
    _exit(126);
  };
  if (chdir(container.workdir.c_str()) != 0 && chdir("/") != 0) fail("chdir");
  // A user namespace of one id lets nobody change them, and there they are right already.
  if (geteuid() == 0 && setgroups(0, nullptr) != 0 && container.uid == 0 && errno != EPERM)
    fail("setgroups");
  if ((getegid() != container.gid && setresgid(container.gid, container.gid, container.gid) != 0) ||
      (geteuid() != container.uid && setresuid(container.uid, container.uid, container.uid) != 0))
    fail("becoming the container's user");
  if (container.uid == 0 && !LowerCapabilities()) fail("capset");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) fail("PR_SET_NO_NEW_PRIVS");
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::vector<char*> words, variables;
  for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  for (const std::string& one : container.env) {
    variables.push_back(const_cast<char*>(one.c_str()));
    if (one.starts_with("PATH=")) setenv("PATH", one.c_str() + 5, 1);  // by which execvpe looks
  }
  std::string term = "TERM=";
  if (const char* own = getenv("TERM"); own != nullptr && isatty(0) == 1) {
    term += own;
    variables.push_back(term.data());
  }
  variables.push_back(nullptr);
  execvpe(words[0], words.data(), variables.data());
  const int code = errno == ENOENT ? 127 : 126;
  dprintf(2, "error: %s\n", ErrnoText(argv.front()).c_str());
  _exit(code);
}

Result<int> EnterOci(const RunningContainer& container, const std::vector<std::string>& argv) {
  if (container.pids.empty()) return Fail(container.name + " has ended");
  sigset_t watched, before;
  sigemptyset(&watched);
  for (const int signal : {SIGCHLD, SIGINT, SIGQUIT, SIGTERM, SIGHUP}) sigaddset(&watched, signal);
  sigprocmask(SIG_BLOCK, &watched, &before);
  if (auto joined = JoinNamespaces(container.pids.front()); !joined) {
    sigprocmask(SIG_SETMASK, &before, nullptr);
    return Wrap(joined.error(), "entering " + container.name);
  }
  const pid_t pid = fork();  // a pid namespace is the children's
  if (pid < 0) return Fail(ErrnoText("fork"));
  if (pid == 0) {
    sigprocmask(SIG_SETMASK, &before, nullptr);
    Become(container, argv);
  }
  while (true) {
    int signal = 0, status = 0;
    sigwait(&watched, &signal);
    // The terminal's own signals reach the command without us.
    if (signal == SIGTERM || signal == SIGHUP || (signal == SIGINT && isatty(0) == 0)) {
      kill(pid, signal);
    }
    if (waitpid(pid, &status, WNOHANG) == pid) {
      return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }
  }
}

}  // namespace

Result<int> EnterContainer(const RunningContainer& container,
                           const std::vector<std::string>& argv) {
  if (container.engine == "oci") return EnterOci(container, argv);
  std::vector<std::string> command{container.engine, "exec",
                                   isatty(0) == 1 && isatty(1) == 1 ? "-it" : "-i", container.name};
  command.insert(command.end(), argv.begin(), argv.end());
  ENVKIT_TRY(const ProcessResult result, RunProcess({.argv = command,
                                                     .inherit_input = true,
                                                     .out = Stream::kInherit,
                                                     .err = Stream::kInherit}));
  return result.exit_code;
}

Result<void> StopContainer(const RunningContainer& container, double patience) {
  if (KeepsImages(container.engine)) {
    ENVKIT_TRY(
        const std::string words,
        RunForOutput({.argv = {container.engine, "stop", "--time",
                               std::to_string(std::lround(std::ceil(patience))), container.name}}));
    return {};
  }
  if (container.pids.empty()) return {};
  const auto pid = static_cast<pid_t>(container.pids.front());
  if (kill(pid, SIGTERM) != 0) {
    if (errno == ESRCH) return {};
    return Fail(ErrnoText(fmt::format("stopping process {}", pid)));
  }
  for (double waited = 0; kill(pid, 0) == 0; waited += 0.02) {
    if (waited > patience + 10) return Fail(container.name + " does not end");
    if (waited > patience) kill(pid, SIGKILL);
    usleep(20'000);
  }
  return {};
}

}  // namespace envkit
