// Starting, finding and ending processes below this one. Ranks are watched by pidfd, so these are
// the system calls themselves; short-lived tools of the host go through base/process.h.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace envkit {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() { Close(); }
  void Close();
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

// Descriptors 0, 1 and 2 exist afterwards: a pipe of ours must never become one of them.
void EnsureStandardDescriptors();

struct SpawnSpec {
  std::string program;              // as execve takes it
  std::vector<std::string> argv;    // argv[0] included
  std::vector<std::string> env;     // "NAME=value", complete
  int in = -1, out = -1, err = -1;  // -1: inherited
  bool new_session = false;         // a session and process group of its own
  bool foreground = false;          // a process group of its own, which gets the terminal
  bool die_with_parent = false;     // SIGKILL when we end
  std::vector<int> cpus;            // it is bound to these; empty: to what we are
  std::vector<int> kept;            // descriptors that stay open in it, under their numbers
  sigset_t mask{};                  // the signal mask that the program starts with
};

struct Spawned {
  pid_t pid = -1;
  int error = 0;  // errno of execve (or vfork); pid is -1 then
};
Spawned Spawn(const SpawnSpec& spec);

// Invalid where the kernel has no pidfds (before 5.3); SIGCHLD must do then.
Fd OpenPidfd(pid_t pid);

// Direct children of any thread of PID, zombies included.
std::vector<pid_t> ChildrenOf(pid_t pid);

// Sends SIGNAL to every descendant of this process, parents before their children; with this
// process a subreaper, that includes those that called setsid or lost their parent.
void SignalDescendants(int signal);

bool HasChildren();

// Whether PID catches SIGNAL (SigCgt of its status); true where that cannot be read.
bool HandlesSignal(pid_t pid, int signal);

// The file that a shell would run for NAME: as it is where it has a slash, else on PATH.
struct FoundProgram {
  std::string path;
  int error = 0;  // ENOENT, or EACCES where there is a file that cannot be executed
};
FoundProgram FindProgram(std::string_view name, std::string_view path_variable);

}  // namespace envkit
