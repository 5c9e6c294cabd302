#include "engine/isolate.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

namespace envkit {
namespace {

// Docker's default less SETPCAP, NET_RAW, MKNOD and SETFCAP: what sshd, apt and what changes owners
// need. Root's sshd, which is linked with libaudit, ends without AUDIT_WRITE.
constexpr std::pair<int, const char*> kCapabilities[] = {
    {0, "CHOWN"},       {1, "DAC_OVERRIDE"}, {3, "FOWNER"}, {4, "FSETID"},
    {5, "KILL"},        {6, "SETGID"},       {7, "SETUID"}, {10, "NET_BIND_SERVICE"},
    {18, "SYS_CHROOT"}, {29, "AUDIT_WRITE"}};

namespace fs = std::filesystem;

constexpr int kForwarded[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};
constexpr const char* kNoProc = "no-proc";  // init could not mount /proc in its pid namespace

sigset_t SetOf(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : signals) sigaddset(&set, signal);
  return set;
}

void DefaultSignals() {
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

int StatusToCode(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

Result<void> WriteProc(const char* file, const std::string& text) {
  int fd = open(file, O_WRONLY | O_CLOEXEC);
  ssize_t written = fd < 0 ? -1 : write(fd, text.data(), text.size());
  std::string error = written < 0 ? ErrnoText(file) : "";
  if (fd >= 0) close(fd);
  if (!error.empty()) return Fail(std::move(error));
  return {};
}

void KillChildren(pid_t parent) {
  std::ifstream in(fmt::format("/proc/{0}/task/{0}/children", parent));
  for (pid_t pid; in >> pid;) kill(pid, SIGKILL);
}

// Orphans below us come to us (subreaper), so this ends when none is left.
void KillDescendants() {
  for (;;) {
    KillChildren(getpid());
    if (waitpid(-1, nullptr, 0) < 0 && errno == ECHILD) return;
  }
}

std::string Encode(const Result<int>& result) {
  nlohmann::json message;
  if (result) {
    message["exit"] = *result;
  } else {
    const Error& error = result.error();
    message = {{"code", static_cast<int>(error.code)},
               {"what", error.what},
               {"next", error.next},
               {"doing", error.doing}};
  }
  return message.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Result<int> Decode(const std::string& text) {
  auto message = nlohmann::json::parse(text, nullptr, false);
  if (message.is_discarded())
    return Fail("the container's first process sent an unreadable result");
  if (message.contains("exit")) return message["exit"].get<int>();
  Error error;
  error.code = static_cast<ExitCode>(message["code"].get<int>());
  error.what = message["what"];
  error.next = message["next"];
  error.doing = message["doing"];
  return Unexpected(std::move(error));
}

}  // namespace

int Isolated::RunChild(const std::function<void()>& child, const std::string& pid_file) {
  sigset_t watched = SetOf({SIGCHLD});
  sigprocmask(SIG_BLOCK, &watched, nullptr);
  int signals = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
  pid_t pid = fork();
  if (pid < 0) return 126;
  if (pid == 0) {
    DefaultSignals();
    child();
    _exit(126);
  }
  for (int code = -1;;) {
    pollfd polled[] = {{signals, POLLIN, 0}, {control_, POLLIN, 0}};
    const bool watch = !pid_namespace_ && !pid_file.empty();
    if (poll(polled, 2, watch ? 100 : -1) < 0 && errno != EINTR) return 126;
    if (watch) {
      pid_t first = 0;
      if (std::ifstream(pid_file) >> first && kill(first, 0) != 0) KillChildren(pid);
    }
    if (polled[1].revents) {
      char signal = 0;
      ssize_t got = recv(control_, &signal, 1, MSG_DONTWAIT);
      if (got == 0) {  // envkit is gone
        if (!pid_namespace_) KillDescendants();
        _exit(137);
      }
      if (got == 1) kill(pid, signal);
    }
    signalfd_siginfo ignored{};
    while (read(signals, &ignored, sizeof ignored) > 0) {
    }
    int status = 0;
    for (pid_t ended; (ended = waitpid(-1, &status, WNOHANG)) > 0;) {
      if (ended == pid) code = StatusToCode(status);
    }
    if (code >= 0) {
      close(signals);
      if (!pid_namespace_) KillDescendants();
      return code;
    }
  }
}

class IsolatedRunner {
 public:
  IsolatedRunner(const IsolateOptions& options, const std::function<Result<int>(Isolated&)>& body)
      : options_(options), body_(body) {}

  // In the first child. Never returns.
  [[noreturn]] void Keeper(int control, pid_t envkit) {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, nullptr);
    if (options_.before)
      if (auto ready = options_.before(); !ready) Finish(control, Unexpected(ready.error()));
    if (auto ready = EnterNamespaces(); !ready) Finish(control, Unexpected(ready.error()));
    if (options_.pid_namespace) {
      // After the namespaces: a change of credentials clears it.
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != envkit) _exit(137);
    }
    pid_t init = fork();
    if (init < 0) Finish(control, Fail(ErrnoText("fork")));
    if (init == 0) Init(control);
    close(control);
    int status = 0;
    while (waitpid(init, &status, 0) < 0 && errno == EINTR) {
    }
    _exit(0);
  }

 private:
  [[noreturn]] void Finish(int control, const Result<int>& result) {
    std::string text = Encode(result);
    (void)!send(control, text.data(), text.size(), MSG_NOSIGNAL);
    _exit(0);
  }

  Result<void> EnterNamespaces() {
    const uid_t uid = geteuid();
    const gid_t gid = getegid();
    int flags = CLONE_NEWNS | options_.more_namespaces;
    if (options_.pid_namespace) flags |= CLONE_NEWPID;
    if (options_.user_namespace) flags |= CLONE_NEWUSER;
    if (unshare(flags) != 0) {
      std::string happened = ErrnoText("unshare");
      if (options_.user_namespace) return Unexpected(ExplainUserNamespaces("/", happened));
      return Missing(happened,
                     "This needs the right to make mount namespaces (CAP_SYS_ADMIN); "
                     "in a container, give it --privileged or run envkit on the host.");
    }
    if (options_.user_namespace) {
      // An old kernel has no setgroups file, and then does not ask for it.
      if (access("/proc/self/setgroups", F_OK) == 0)
        ENVKIT_CHECK(WriteProc("/proc/self/setgroups", "deny"));
      auto mapped = WriteProc("/proc/self/uid_map", fmt::format("0 {} 1", uid));
      if (mapped) mapped = WriteProc("/proc/self/gid_map", fmt::format("0 {} 1", gid));
      if (!mapped) return Unexpected(ExplainUserNamespaces("/", mapped.error().what));
    }
    if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
      std::string happened = ErrnoText("mount --make-rprivate /");
      if (options_.user_namespace) return Unexpected(ExplainUserNamespaces("/", happened));
      return Missing(std::move(happened));
    }
    return {};
  }

  [[noreturn]] void Init(int control) {
    if (options_.own_session) setsid();
    if (options_.pid_namespace) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      // pid 1 cannot see its parent; the closed socket says that envkit ended before the line
      // above.
      pollfd polled{control, 0, 0};
      if (poll(&polled, 1, 0) > 0 && (polled.revents & POLLHUP)) _exit(137);
      if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0)
        Finish(control, Fail(kNoProc));
    } else {
      prctl(PR_SET_CHILD_SUBREAPER, 1);
    }
    Isolated isolated;
    isolated.control_ = control;
    isolated.user_namespace_ = options_.user_namespace;
    isolated.pid_namespace_ = options_.pid_namespace;
    Finish(control, body_(isolated));
  }

  const IsolateOptions& options_;
  const std::function<Result<int>(Isolated&)>& body_;
};

Result<int> RunIsolated(const IsolateOptions& options,
                        const std::function<Result<int>(Isolated&)>& body,
                        const std::function<void(std::string_view)>& heard) {
  int control[2], output[2] = {-1, -1};
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) != 0)
    return Fail(ErrnoText("socketpair"));
  if (options.capture && pipe2(output, O_CLOEXEC) != 0) {
    std::string error = ErrnoText("pipe2");
    close(control[0]);
    close(control[1]);
    return Fail(std::move(error));
  }
  sigset_t forwarded, before;
  sigemptyset(&forwarded);
  for (int signal : kForwarded) sigaddset(&forwarded, signal);
  pthread_sigmask(SIG_BLOCK, &forwarded, &before);
  int signals = signalfd(-1, &forwarded, SFD_CLOEXEC | SFD_NONBLOCK);

  const pid_t envkit = getpid();
  pid_t keeper = fork();
  if (keeper == 0) {
    close(control[0]);
    if (options.capture) {
      dup2(output[1], 1);
      dup2(output[1], 2);
      close(output[0]);
      close(output[1]);
    }
    IsolatedRunner(options, body).Keeper(control[1], envkit);
  }
  std::string fork_error = keeper < 0 ? ErrnoText("fork") : "";
  close(control[1]);
  if (output[1] >= 0) close(output[1]);

  std::string message;
  bool running = keeper > 0, reading = keeper > 0 && options.capture;
  while (running || reading) {
    pollfd polled[] = {{running ? control[0] : -1, POLLIN, 0},
                       {signals, POLLIN, 0},
                       {reading ? output[0] : -1, POLLIN, 0}};
    if (poll(polled, 3, -1) < 0 && errno != EINTR) break;
    if (polled[2].revents) {
      char buffer[65536];
      ssize_t got = read(output[0], buffer, sizeof buffer);
      if (got <= 0 && errno != EINTR) reading = false;
      if (got > 0 && heard) heard({buffer, static_cast<std::size_t>(got)});
    }
    signalfd_siginfo info{};
    while (read(signals, &info, sizeof info) == sizeof info) {
      char signal = static_cast<char>(info.ssi_signo);
      if (running) (void)!send(control[0], &signal, 1, MSG_NOSIGNAL);
    }
    if (polled[0].revents) {
      char buffer[65536];
      ssize_t got = recv(control[0], buffer, sizeof buffer, 0);
      if (got > 0) message.assign(buffer, static_cast<std::size_t>(got));
      running = false;
    }
  }
  if (keeper > 0) {
    while (waitpid(keeper, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  close(control[0]);
  if (output[0] >= 0) close(output[0]);
  close(signals);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);

  if (keeper < 0) return Fail(std::move(fork_error));
  if (message.empty()) return Fail("the container's first process was killed");
  auto result = Decode(message);
  if (!result && result.error().what == kNoProc && options.pid_namespace) {
    IsolateOptions without = options;
    without.pid_namespace = false;
    return RunIsolated(without, body, heard);
  }
  return result;
}

Result<fs::path> MountScratch() {
  const char* place = "/sys/fs/cgroup";
  if (mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=50%") != 0 ||
      chdir(place) != 0)
    return Missing(ErrnoText("mounting a tmpfs on /sys/fs/cgroup"));
  return fs::path(place);
}

Result<void> MountOverlay(const std::vector<fs::path>& lower, bool user_namespace) {
  std::string options = "lowerdir=";
  for (std::size_t i = lower.size(); i-- > 0;) {
    if (access(lower[i].c_str(), R_OK | X_OK) != 0)
      return Fail(ErrnoText("the layer " + lower[i].string()), "Run: envkit build");
    std::string link = std::to_string(i);
    if (symlink(lower[i].c_str(), link.c_str()) != 0) return Fail(ErrnoText("symlink"));
    options += link + (i > 0 ? ":" : "");
  }
  options += ",upperdir=upper,workdir=work";
  if (user_namespace) options += ",userxattr";
  for (const char* directory : {"upper", "work", "root"}) mkdir(directory, 0755);
  chmod("upper", 0755);  // the root directory's own mode inside, whatever the umask is
  if (mount("overlay", "root", "overlay", 0, options.c_str()) == 0) return {};
  std::string happened = ErrnoText("mounting the layers with overlayfs");
  if (errno == ENODEV) return Missing(happened, "Load the module: sudo modprobe overlay");
  if (user_namespace && (errno == EPERM || errno == EINVAL))
    return Missing(happened,
                   "Overlays of ordinary users need Linux 5.11 or newer; "
                   "or run as root, or use --engine docker.");
  return Missing(happened,
                 "Layers cannot be mounted from this file system; set ENVKIT_STORE to a directory "
                 "on a local disk (ext4, xfs, btrfs).");
}

Error ExplainUserNamespaces(const fs::path& root, const std::string& happened) {
  auto sysctl = [&](const char* name) {
    std::string value;
    std::ifstream(root / "proc/sys" / name) >> value;
    return value;
  };
  std::string name, value, good;
  if (sysctl("kernel/unprivileged_userns_clone") == "0") {
    name = "kernel.unprivileged_userns_clone", value = "0", good = "1";
  } else if (sysctl("user/max_user_namespaces") == "0") {
    name = "user.max_user_namespaces", value = "0", good = "15000";
  } else if (sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1") {
    name = "kernel.apparmor_restrict_unprivileged_userns", value = "1", good = "0";
  }
  Error error;
  error.code = ExitCode::kMissing;
  if (name.empty()) {
    error.what = "an ordinary user could not make a user namespace: " + happened;
    error.next =
        "A seccomp or LSM policy may forbid it (in a container: its runtime's).\n"
        "Run as root, or use --engine docker.";
    return error;
  }
  error.what = fmt::format("ordinary users may not make user namespaces here ({} = {}): {}", name,
                           value, happened);
  error.next = fmt::format(
      "Allow it:  echo '{0} = {1}' | sudo tee /etc/sysctl.d/60-envkit.conf && sudo sysctl "
      "--system\n"
      "or use a daemon:  --engine docker",
      name, good);
  return error;
}

const std::vector<int>& DefaultCapabilities() {
  static const std::vector<int> numbers = [] {
    std::vector<int> all;
    for (const auto& [number, name] : kCapabilities) all.push_back(number);
    return all;
  }();
  return numbers;
}

std::vector<std::string> DefaultCapabilityNames() {
  std::vector<std::string> names;
  for (const auto& [number, name] : kCapabilities) names.emplace_back(name);
  return names;
}

}  // namespace envkit
