// A child in namespaces of its own, so that whatever it mounts and starts vanishes with it:
//
//   envkit ── keeper ── init (pid 1 of the private pid namespace) ── runtime or command ── …
//
// The kernel kills keeper and init when envkit dies (PDEATHSIG), and with init everything in its
// pid namespace; the mounts go with the last process. Where the host lets nobody mount /proc (some
// containers), there is no pid namespace: init outlives envkit for the moment that it takes to kill
// its descendants.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace envkit {

struct IsolateOptions {
  bool user_namespace = false;  // for ordinary users: they are uid 0 inside
  bool pid_namespace = true;    // false: as where /proc cannot be mounted
  bool own_session = true;      // away from the terminal's process group: signals are sent once
  int more_namespaces = 0;      // CLONE_NEWNET …
  bool capture = false;         // what goes to the child's stdout and stderr
  std::function<Result<void>()> before;  // in the keeper, before any namespace: cgroups, limits
};

// What a body has, running as init.
class Isolated {
 public:
  // Starts a child that must exec or _exit, and waits for it: 128 + signal where one ended it.
  // Signals that reach envkit are passed on to it; orphans are reaped.
  // PID_FILE: where the child, a runtime, writes its container's first process; without a pid
  // namespace what that process leaves behind is killed here.
  int RunChild(const std::function<void()>& child, const std::string& pid_file = "");
  bool user_namespace() const { return user_namespace_; }
  bool pid_namespace() const { return pid_namespace_; }

 private:
  friend class IsolatedRunner;
  int control_ = -1;
  bool user_namespace_ = false;
  bool pid_namespace_ = true;
};

// Runs BODY as init and returns its result. SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 are passed
// on meanwhile. HEARD gets the output with options.capture, in pieces and on this thread.
Result<int> RunIsolated(const IsolateOptions& options,
                        const std::function<Result<int>(Isolated&)>& body,
                        const std::function<void(std::string_view)>& heard = {});

// For bodies. A private tmpfs over /sys/fs/cgroup, which becomes the working directory: crun 1.8
// refuses hybrid cgroups and takes an empty directory; and no user mounts anything from there.
Result<std::filesystem::path> MountScratch();
// The overlay of LOWER (lowest first) at "root" below the working directory, upper layer beside it.
// Any number of layers: the options name one-letter links, since mount(2) takes one page of them.
Result<void> MountOverlay(const std::vector<std::filesystem::path>& lower, bool user_namespace);

// Why user namespaces cannot be had, from the sysctls below ROOT; HAPPENED is the kernel's word.
Error ExplainUserNamespaces(const std::filesystem::path& root, const std::string& happened);

// What root keeps in containers of all engines and in builds, by number (CAP_CHOWN = 0 …), and by
// name without "CAP_". Others keep none.
const std::vector<int>& DefaultCapabilities();
std::vector<std::string> DefaultCapabilityNames();

}  // namespace envkit
