// RunInSandbox: a root file system of the store with a throw-away upper layer, without a container
// runtime, without a network.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

#include "engine/engine.h"
#include "engine/isolate.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

// Resolved as if "root" were "/", so that a symlink in a layer cannot lead out of it.
int OpenInRoot(const std::string& path, int flags) {
  int root = open("root", O_PATH | O_DIRECTORY | O_CLOEXEC);
  open_how how{};
  how.flags = static_cast<std::uint64_t>(flags | O_CLOEXEC);
  how.mode = (flags & O_CREAT) ? 0644 : 0;
  how.resolve = RESOLVE_IN_ROOT;
  int fd = static_cast<int>(syscall(SYS_openat2, root, path.c_str(), &how, sizeof how));
  int error = errno;
  close(root);
  errno = error;
  return fd;
}

// A mount point at PATH, made where it is missing; O_PATH descriptor or -1.
int MakeMountPoint(const std::string& path, bool directory) {
  fs::path done = "/";
  const fs::path relative = fs::path(path).lexically_normal().relative_path();
  for (auto part = relative.begin(); part != relative.end(); ++part) {
    const bool last = std::next(part) == relative.end();
    fs::path next = done / *part;
    int fd = OpenInRoot(next.string(), O_PATH);
    if (fd < 0 && errno == ENOENT) {
      int parent = OpenInRoot(done.string(), O_PATH | O_DIRECTORY);
      if (last && !directory) {
        int file = openat(parent, part->c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
        if (file >= 0) close(file);
      } else {
        mkdirat(parent, part->c_str(), 0755);
      }
      close(parent);
      fd = OpenInRoot(next.string(), O_PATH);
    }
    if (fd < 0 || last) return fd;
    close(fd);
    done = next;
  }
  return OpenInRoot("/", O_PATH);
}

struct MountAttributes {  // struct mount_attr, which older headers lack
  std::uint64_t set = 0, clear = 0, propagation = 0, user_namespace = 0;
};

Result<void> Bind(const fs::path& host, const std::string& target, bool read_only) {
  struct stat status {};
  if (stat(host.c_str(), &status) != 0) return Fail(ErrnoText(host.string()));
  int fd = MakeMountPoint(target, S_ISDIR(status.st_mode));
  if (fd < 0) return Fail(ErrnoText("making the mount point " + target));
  const std::string point = fmt::format("/proc/self/fd/{}", fd);
  Result<void> result;
  if (mount(host.c_str(), point.c_str(), nullptr, MS_BIND | MS_REC, nullptr) != 0)
    result = Fail(ErrnoText(fmt::format("mounting {} on {}", host.string(), target)));
  close(fd);
  if (result && read_only) {
    MountAttributes attributes;
    attributes.set = 1;  // MOUNT_ATTR_RDONLY
    int mounted = OpenInRoot(target, O_PATH);
    constexpr unsigned kEmptyPathRecursive = 0x1000 | 0x8000;
    if (syscall(442 /* mount_setattr */, mounted, "", kEmptyPathRecursive, &attributes,
                sizeof attributes) != 0)
      result = Fail(ErrnoText("making " + target + " read-only"));
    close(mounted);
  }
  return result;
}

Result<void> MakeDevices() {
  int fd = MakeMountPoint("/dev", true);
  if (fd < 0) return Fail(ErrnoText("making /dev"));
  std::string point = fmt::format("/proc/self/fd/{}", fd);
  if (mount("tmpfs", point.c_str(), "tmpfs", MS_NOSUID, "mode=0755,size=50%") != 0)
    return Fail(ErrnoText("mounting /dev"));
  close(fd);
  for (const char* node : {"null", "zero", "full", "random", "urandom"}) {
    ENVKIT_CHECK(Bind(fmt::format("/dev/{}", node), fmt::format("/dev/{}", node), false));
  }
  int dev = OpenInRoot("/dev", O_PATH | O_DIRECTORY);
  mkdirat(dev, "shm", 01777);
  fchmodat(dev, "shm", 01777, 0);
  (void)!symlinkat("/proc/self/fd", dev, "fd");
  (void)!symlinkat("/proc/self/fd/0", dev, "stdin");
  (void)!symlinkat("/proc/self/fd/1", dev, "stdout");
  (void)!symlinkat("/proc/self/fd/2", dev, "stderr");
  close(dev);
  return {};
}

Result<void> MakeProc(bool own) {
  if (!own) return Bind("/proc", "/proc", false);
  int fd = MakeMountPoint("/proc", true);
  if (fd < 0) return Fail(ErrnoText("making /proc"));
  std::string point = fmt::format("/proc/self/fd/{}", fd);
  if (mount("proc", point.c_str(), "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0)
    return Fail(ErrnoText("mounting /proc"));
  close(fd);
  return {};
}

[[noreturn]] void Die(const std::string& text) {
  (void)!write(2, text.data(), text.size());
  _exit(127);
}

// In the child: the overlay becomes "/", capabilities shrink to a container's, the command starts.
[[noreturn]] void Become(const SandboxSpec& spec) {
  if (chdir("root") != 0 || syscall(SYS_pivot_root, ".", ".") != 0 ||
      umount2(".", MNT_DETACH) != 0 || chdir(spec.workdir.c_str()) != 0)
    Die(ErrnoText("entering " + spec.workdir) + "\n");
  const auto& kept = DefaultCapabilities();
  for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; ++capability) {
    if (std::find(kept.begin(), kept.end(), capability) == kept.end())
      prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
  }
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  umask(022);

  std::vector<std::string> variables;
  for (const auto& [name, value] : spec.env) variables.push_back(fmt::format("{}={}", name, value));
  const auto path = spec.env.find("PATH");
  // execvpe searches the PATH of this process, not of the environment that it is given.
  setenv("PATH",
         path != spec.env.end() ? path->second.c_str()
                                : "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
         1);
  std::vector<char*> argv, envp;
  for (const std::string& word : spec.argv) argv.push_back(const_cast<char*>(word.c_str()));
  for (const std::string& text : variables) envp.push_back(const_cast<char*>(text.c_str()));
  argv.push_back(nullptr);
  envp.push_back(nullptr);
  execvpe(argv[0], argv.data(), envp.data());
  Die(ErrnoText(spec.argv[0]) + "\n");
}

}  // namespace

Result<SandboxResult> RunInSandbox(const SandboxSpec& spec) {
  if (spec.argv.empty()) return Fail("the sandbox was given no command");
  IsolateOptions options;
  options.user_namespace = geteuid() != 0;
  options.more_namespaces = CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
  options.capture = spec.capture;
  auto body = [&](Isolated& isolated) -> Result<int> {
    (void)!sethostname("sandbox", 7);
    ENVKIT_CHECK(MountScratch());
    ENVKIT_CHECK(MountOverlay(spec.lower, isolated.user_namespace()));
    ENVKIT_CHECK(MakeProc(isolated.pid_namespace()));
    ENVKIT_CHECK(MakeDevices());
    for (const Mount& mount : spec.mounts)
      ENVKIT_CHECK(Bind(mount.host, mount.container, mount.read_only));
    return isolated.RunChild([&] {
      int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
      dup2(null, 0);
      Become(spec);
    });
  };
  SandboxResult result;
  auto code = RunIsolated(options, body, [&](std::string_view text) {
    result.output += text;
    if (spec.heard) spec.heard(text);
  });
  if (!code) return Wrap(std::move(code).error(), "running " + spec.argv[0] + " in a sandbox");
  result.exit_code = *code;
  return result;
}

}  // namespace envkit
