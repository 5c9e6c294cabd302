#include "launch/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif

namespace envkit {
namespace {

// A whole file of /proc; empty where it is gone.
std::string ReadProc(const std::string& path) {
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  if (!fd) return text;
  char buffer[4096];
  ssize_t got = 0;
  while ((got = read(fd.get(), buffer, sizeof buffer)) > 0) text.append(buffer, got);
  return text;
}

// Parent of PID from /proc/PID/stat, whose second field may hold spaces and parentheses; -1: gone.
pid_t ParentOf(pid_t pid) {
  const std::string stat = ReadProc("/proc/" + std::to_string(pid) + "/stat");
  const std::size_t end = stat.rfind(')');
  if (end == std::string::npos || end + 4 >= stat.size()) return -1;
  return std::atoi(stat.c_str() + end + 4);
}

template <class Visit>
void ForEachNumber(const char* directory, Visit visit) {
  DIR* open_directory = opendir(directory);
  if (open_directory == nullptr) return;
  while (const dirent* entry = readdir(open_directory)) {
    const long number = std::strtol(entry->d_name, nullptr, 10);
    if (number > 0) visit(static_cast<pid_t>(number));
  }
  closedir(open_directory);
}

// The kernel's own list of children costs one small file a thread; where it is not compiled in
// (CONFIG_PROC_CHILDREN), all of /proc is read.
bool KernelListsChildren() {
  static const bool lists = access("/proc/thread-self/children", R_OK) == 0;
  return lists;
}

struct Kin {
  pid_t pid;
  pid_t parent;
};

std::vector<Kin> Descendants() {
  const pid_t self = getpid();
  std::vector<Kin> found;
  if (KernelListsChildren()) {
    for (const pid_t child : ChildrenOf(self)) found.push_back({child, self});
    for (std::size_t i = 0; i < found.size(); ++i) {
      const pid_t parent = found[i].pid;
      for (const pid_t child : ChildrenOf(parent)) found.push_back({child, parent});
    }
    return found;
  }
  std::multimap<pid_t, pid_t> by_parent;
  ForEachNumber("/proc", [&](pid_t pid) { by_parent.emplace(ParentOf(pid), pid); });
  found.push_back({self, 0});
  for (std::size_t i = 0; i < found.size(); ++i) {
    const pid_t parent = found[i].pid;
    const auto [begin, end] = by_parent.equal_range(parent);
    for (auto it = begin; it != end; ++it) found.push_back({it->second, parent});
  }
  found.erase(found.begin());
  return found;
}

// Between vfork and execve the child shares our memory: only system calls, no allocation. (TSan
// makes a fork of it, and the error stays in the child.)
__attribute__((noinline)) pid_t VforkExec(const SpawnSpec& spec, char* const* argv,
                                          char* const* env, const cpu_set_t* cpus,
                                          std::size_t cpus_size, volatile int* error) {
  const pid_t parent = getpid();
  const pid_t pid = vfork();
  if (pid != 0) return pid;
  if (spec.new_session) setsid();
  if (spec.foreground) {
    setpgid(0, 0);
    tcsetpgrp(STDIN_FILENO, getpid());  // allowed from the background: SIGTTOU is blocked here
  }
  if (spec.in >= 0) dup2(spec.in, STDIN_FILENO);
  if (spec.out >= 0) dup2(spec.out, STDOUT_FILENO);
  if (spec.err >= 0) dup2(spec.err, STDERR_FILENO);
  for (const int fd : spec.kept) fcntl(fd, F_SETFD, 0);
  if (spec.die_with_parent) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);  // it died before the line above
  }
  if (cpus != nullptr) sched_setaffinity(0, cpus_size, cpus);  // better slow than not at all
  sigprocmask(SIG_SETMASK, &spec.mask, nullptr);
  execve(spec.program.c_str(), argv, env);
  *error = errno;
  _exit(127);
}

}  // namespace

void Fd::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

void EnsureStandardDescriptors() {
  int fd = open("/dev/null", O_RDWR);
  while (fd >= 0 && fd <= 2) fd = open("/dev/null", O_RDWR);
  if (fd > 2) close(fd);
}

Spawned Spawn(const SpawnSpec& spec) {
  std::vector<char*> argv;
  std::vector<char*> env;
  for (const auto& text : spec.argv) argv.push_back(const_cast<char*>(text.c_str()));
  for (const auto& text : spec.env) env.push_back(const_cast<char*>(text.c_str()));
  argv.push_back(nullptr);
  env.push_back(nullptr);
  volatile int error = 0;
  cpu_set_t* cpus = nullptr;
  std::size_t cpus_size = 0;
  if (!spec.cpus.empty()) {
    const int most = *std::max_element(spec.cpus.begin(), spec.cpus.end()) + 1;
    cpus = CPU_ALLOC(most);
    cpus_size = CPU_ALLOC_SIZE(most);
    CPU_ZERO_S(cpus_size, cpus);
    for (const int cpu : spec.cpus) CPU_SET_S(static_cast<std::size_t>(cpu), cpus_size, cpus);
  }
  const pid_t pid = VforkExec(spec, argv.data(), env.data(), cpus, cpus_size, &error);
  if (cpus != nullptr) CPU_FREE(cpus);
  if (pid < 0) return {-1, errno};
  if (error != 0) {
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    return {-1, error};
  }
  return {pid, 0};
}

Fd OpenPidfd(pid_t pid) { return Fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))); }

std::vector<pid_t> ChildrenOf(pid_t pid) {
  std::vector<pid_t> children;
  if (!KernelListsChildren()) {
    ForEachNumber("/proc", [&](pid_t candidate) {
      if (ParentOf(candidate) == pid) children.push_back(candidate);
    });
    return children;
  }
  const std::string tasks = "/proc/" + std::to_string(pid) + "/task";
  ForEachNumber(tasks.c_str(), [&](pid_t thread) {
    const std::string list = ReadProc(tasks + "/" + std::to_string(thread) + "/children");
    const char* at = list.c_str();
    char* end = nullptr;
    for (long child = std::strtol(at, &end, 10); end != at; child = std::strtol(at, &end, 10)) {
      children.push_back(static_cast<pid_t>(child));
      at = end;
    }
  });
  return children;
}

void SignalDescendants(int signal) {
  const pid_t self = getpid();
  for (const Kin& kin : Descendants()) {
    if (kin.parent == self) {  // ours to reap, so the number cannot have been given away
      kill(kin.pid, signal);
      continue;
    }
    // Anybody else's child may be gone and its number reused since we looked: hold it, look again.
    const Fd pidfd = OpenPidfd(kin.pid);
    const bool no_pidfds = !pidfd && errno == ENOSYS;
    const pid_t parent = ParentOf(kin.pid);
    if (parent != kin.parent && parent != self) continue;
    if (pidfd) {
      syscall(SYS_pidfd_send_signal, pidfd.get(), signal, nullptr, 0);
    } else if (no_pidfds) {
      kill(kin.pid, signal);
    }
  }
}

bool HandlesSignal(pid_t pid, int signal) {
  const std::string status = ReadProc("/proc/" + std::to_string(pid) + "/status");
  const std::size_t at = status.find("\nSigCgt:");
  if (at == std::string::npos) return true;
  const unsigned long long caught = std::strtoull(status.c_str() + at + 8, nullptr, 16);
  return (caught >> (signal - 1) & 1) != 0;
}

bool HasChildren() {
  siginfo_t info{};
  return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 || errno != ECHILD;
}

FoundProgram FindProgram(std::string_view name, std::string_view path_variable) {
  const auto check = [](const std::string& path) {
    struct stat info {};
    if (stat(path.c_str(), &info) != 0) return errno == EACCES ? EACCES : ENOENT;
    return S_ISREG(info.st_mode) && access(path.c_str(), X_OK) == 0 ? 0 : EACCES;
  };
  if (name.find('/') != std::string_view::npos) {
    const std::string path(name);
    return {path, check(path)};
  }
  FoundProgram found{std::string(name), ENOENT};
  std::size_t at = 0;
  while (at <= path_variable.size() && !name.empty()) {
    const std::size_t end = std::min(path_variable.find(':', at), path_variable.size());
    std::string path(path_variable.substr(at, end - at));
    path = (path.empty() ? "." : path) + "/" + std::string(name);
    const int error = check(path);
    if (error == 0) return {path, 0};
    if (error == EACCES && found.error == ENOENT) found = {path, EACCES};
    at = end + 1;
  }
  return found;
}

}  // namespace envkit
