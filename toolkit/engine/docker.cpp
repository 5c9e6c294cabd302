// The engine for hosts with a Docker daemon, through docker's own client; and podman, which takes
// the same words, has no daemon, and so neither a need for rights of its own nor images that others
// brought.
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "base/files.h"
#include "base/process.h"
#include "engine/engines.h"
#include "engine/isolate.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

std::string SizeText(std::uint64_t bytes) {
  for (auto [unit, letter] : {std::pair{1ull << 30, 'g'}, {1ull << 20, 'm'}, {1ull << 10, 'k'}})
    if (bytes >= unit && bytes % unit == 0) return fmt::format("{}{}", bytes / unit, letter);
  return std::to_string(bytes);
}

constexpr const char* kPodman = "podman";

void AddGpus(const RunPlan& plan, const std::string& client, std::vector<std::string>& argv) {
  if (client == kPodman) {  // CDI alone
    std::vector<std::string> devices = plan.gpu_devices;
    if (devices.empty()) devices.emplace_back("all");
    for (const std::string& device : devices) {
      const bool named = device.find('=') != std::string::npos;
      argv.insert(argv.end(), {"--device", named ? device : "nvidia.com/gpu=" + device});
    }
    return;
  }
  if (plan.gpu_devices.empty()) {
    argv.insert(argv.end(), {"--gpus", "all"});
    return;
  }
  if (plan.gpu_devices.front().find('=') != std::string::npos) {  // CDI: nvidia.com/gpu=0
    for (const std::string& device : plan.gpu_devices)
      argv.insert(argv.end(), {"--device", device});
    return;
  }
  // A list is one CSV field of docker's option, hence the quotes.
  argv.insert(argv.end(),
              {"--gpus", fmt::format("\"device={}\"", fmt::join(plan.gpu_devices, ","))});
}

std::string MountText(const Mount& mount) {
  return fmt::format("{}:{}{}", mount.host.string(), mount.container, mount.read_only ? ":ro" : "");
}

// A child with its own descriptors; -1 leaves one as it is.
pid_t Spawn(const std::vector<std::string>& argv, int in, int out_and_err, bool own_session) {
  const pid_t parent = getpid();
  pid_t pid = fork();
  if (pid != 0) return pid;
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(137);
  if (own_session) setsid();
  if (in >= 0) dup2(in, 0);
  if (out_and_err >= 0) {
    dup2(out_and_err, 1);
    dup2(out_and_err, 2);
  }
  std::vector<char*> words;
  words.reserve(argv.size() + 1);
  for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  execvp(words[0], words.data());
  _exit(127);
}

int WaitFor(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

// The daemon, or podman's monitor, keeps a container running when its client dies. A process that
// notices our end (the pipe closes, whatever killed us) removes the container then; it has no other
// work.
class Guard {
 public:
  Guard(const std::string& client, const std::string& container) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return;
    pid_ = fork();
    if (pid_ == 0) Watch(ends[0], client, container);
    close(ends[0]);
    write_ = ends[1];
  }
  ~Guard() {
    if (write_ < 0) return;
    (void)!write(write_, "d", 1);
    close(write_);
    if (pid_ > 0) WaitFor(pid_);
  }

 private:
  [[noreturn]] static void Watch(int read_end, const std::string& client,
                                 const std::string& container) {
    setsid();
    int null = open("/dev/null", O_RDWR);
    for (int fd : {0, 1, 2}) dup2(null, fd);
    dup2(read_end, 3);
    syscall(SYS_close_range, 4u, ~0u, 0u);
    for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) ::signal(signal, SIG_IGN);
    char done = 0;
    if (read(3, &done, 1) == 1) _exit(0);
    // A request to create it may be under way still.
    for (int attempt = 0; attempt < 20; ++attempt) {
      if (WaitFor(Spawn({client, "container", "rm", "--force", "--volumes", container}, -1, -1,
                        false)) == 0 &&
          attempt > 0)
        _exit(0);
      usleep(250'000);
    }
    _exit(1);
  }

  pid_t pid_ = -1;
  int write_ = -1;
};

Error DaemonError(const std::string& words) {
  Error error;
  error.code = ExitCode::kMissing;
  error.what = "docker: " + words;
  // Not a warning about a file that the client could not read.
  if (words.find("permission denied while trying to connect") != words.npos) {
    error.next =
        "Let this user ask the daemon:  sudo usermod -aG docker $USER  (then log in again)\n"
        "or use the engine that needs no daemon:  --engine oci";
  } else {
    error.next =
        "Start it:  sudo systemctl start docker  (or set DOCKER_HOST)\n"
        "or use the engine that needs no daemon:  --engine oci";
  }
  return error;
}

std::string LastLines(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text;
}

bool HasImage(const std::string& client, const std::string& reference) {
  auto result =
      RunProcess({.argv = {client, "image", "inspect", "--format", "{{.Id}}", reference}});
  return result && result->exit_code == 0;
}

// How many of the lowest layers the daemon has, because one of its images begins with them.
std::size_t KnownLayers(const std::vector<std::string>& diff_ids) {
  auto listed = RunProcess({.argv = {"docker", "image", "ls", "--quiet", "--no-trunc"}});
  if (!listed || listed->exit_code != 0) return 0;
  std::vector<std::string> argv{"docker", "image", "inspect", "--format",
                                "{{json .RootFS.Layers}}"};
  std::istringstream ids(listed->out);
  std::size_t count = argv.size();
  for (std::string id; std::getline(ids, id);)
    if (std::find(argv.begin() + static_cast<std::ptrdiff_t>(count), argv.end(), id) == argv.end())
      argv.push_back(id);
  if (argv.size() == count) return 0;
  auto inspected = RunProcess({.argv = argv});
  if (!inspected) return 0;
  std::size_t best = 0;
  std::istringstream lines(inspected->out);
  for (std::string line; std::getline(lines, line);) {
    auto layers = nlohmann::json::parse(line, nullptr, false);
    if (!layers.is_array()) continue;
    std::size_t same = 0;
    while (same < diff_ids.size() && same < layers.size() &&
           layers[same] == "sha256:" + diff_ids[same])
      ++same;
    best = std::max(best, same);
  }
  return best;
}

// Feeds `docker load` or `podman load`. The writer has a thread of its own; what it writes is
// counted on the way.
Result<void> Load(const std::string& engine, const ArchiveWriter& write_archive, std::size_t known,
                  Terminal& terminal, const std::string& label) {
  int archive[2], input[2], output[2];
  if (pipe2(archive, O_CLOEXEC) != 0 || pipe2(input, O_CLOEXEC) != 0 ||
      pipe2(output, O_CLOEXEC) != 0)
    return Fail(ErrnoText("pipe2"));
  pid_t client = Spawn({engine, "load", "--quiet"}, input[0], output[1], false);
  close(input[0]);
  close(output[1]);
  std::string words;
  std::thread reader([&] {
    char buffer[4096];
    for (ssize_t got; (got = read(output[0], buffer, sizeof buffer)) > 0;)
      words.append(buffer, static_cast<std::size_t>(got));
  });
  sigset_t broken_pipe, before;
  sigemptyset(&broken_pipe);
  sigaddset(&broken_pipe, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &broken_pipe, &before);
  Result<void> written;
  std::thread writer([&] {
    written = write_archive(archive[1], known);
    close(archive[1]);
  });
  {
    auto progress = terminal.StartProgress("load", label, 0);
    std::vector<char> buffer(1 << 20);
    bool open = true;
    for (ssize_t got; (got = read(archive[0], buffer.data(), buffer.size())) > 0;) {
      for (ssize_t done = 0; open && done < got;) {
        ssize_t put = write(input[1], buffer.data() + done, static_cast<std::size_t>(got - done));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) open = false;  // it ended early: its words say why
        done += put;
      }
      progress->Add(static_cast<std::uint64_t>(got));
    }
    progress->Done();
  }
  close(input[1]);
  writer.join();
  reader.join();
  close(archive[0]);
  close(output[0]);
  const int code = WaitFor(client);
  // A SIGPIPE that came meanwhile is taken before it can end us.
  timespec now{0, 0};
  while (sigtimedwait(&broken_pipe, nullptr, &now) > 0) {
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (!written) return written;
  if (code != 0) return Fail(engine + " load: " + LastLines(words));
  return {};
}

class DockerEngine : public Engine {
 public:
  DockerEngine(std::string client, std::string version)
      : client_(std::move(client)), version_(std::move(version)) {}
  std::string Name() const override { return client_; }
  std::string Version() const override { return version_; }

  Result<int> Run(const RunPlan& plan) override {
    ENVKIT_TRY(fs::path temp, MakeTempDirectory(fs::temp_directory_path(), "envkit-docker"));
    // Unique on the daemon's machine as well, and telling in `docker ps`.
    const std::string name = fmt::format("envkit-{}-{}", plan.job.empty() ? "run" : plan.job,
                                         temp.filename().string().substr(14));
    const fs::path cid = temp / "cid";
    std::vector<std::string> argv = DockerArgv(plan);
    argv.insert(argv.begin() + 3, {"--name", name, "--cidfile", cid.string()});

    sigset_t watched, before;
    sigemptyset(&watched);
    for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD})
      sigaddset(&watched, signal);
    pthread_sigmask(SIG_BLOCK, &watched, &before);
    int signals = signalfd(-1, &watched, SFD_CLOEXEC);
    int code = 0;
    {
      Guard guard(client_, name);
      int null = !plan.terminal && isatty(0) ? open("/dev/null", O_RDONLY | O_CLOEXEC) : -1;
      // Away from the terminal's process group, so that Ctrl-C reaches the container once.
      pid_t client = Spawn(argv, null, -1, !plan.terminal);
      if (null >= 0) close(null);
      for (int status = 0;;) {
        signalfd_siginfo info{};
        if (read(signals, &info, sizeof info) != sizeof info) continue;
        if (info.ssi_signo != SIGCHLD) {
          kill(client, static_cast<int>(info.ssi_signo));
        } else if (waitpid(client, &status, WNOHANG) == client) {
          code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
          break;
        }
      }
    }
    close(signals);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    const bool created = fs::exists(cid);
    (void)RemoveTree(temp);
    if (code == 125 && !created)
      return Missing(client_ + " could not make the container; its own words are above",
                     "Try the engine that needs no daemon:  --engine oci");
    return code;
  }

 private:
  std::string client_, version_;
};

}  // namespace

std::vector<std::string> DockerArgv(const RunPlan& plan) {
  const std::string client = plan.engine == kPodman ? kPodman : "docker";
  std::vector<std::string> argv{client, "run", "--rm", plan.terminal ? "-it" : "-i"};
  auto add = [&](std::initializer_list<std::string> words) { argv.insert(argv.end(), words); };
  const bool podman = client == kPodman;
  // What docker does unasked: no proxies from our environment, files without SELinux's relabelling.
  if (podman) add({"--pull=never", "--http-proxy=false", "--security-opt", "label=disable"});
  // Without root, the user's own number is the user's own inside too.
  const bool rootless = podman && plan.uid != 0;
  if (rootless) add({"--userns=keep-id"});
  if (plan.gpus) AddGpus(plan, client, argv);
  if (plan.network == "host") add({"--network=host"});
  if (!plan.hostname.empty())
    add({"--hostname", plan.hostname, "--add-host", plan.hostname + ":127.0.1.1"});
  add({"--ipc=private", "--shm-size=" + SizeText(plan.shm_bytes)});
  if (plan.unlimited_memlock && !rootless) add({"--ulimit", "memlock=-1"});
  if (plan.memory_bytes) add({"--memory", SizeText(*plan.memory_bytes)});
  add({"--security-opt", "no-new-privileges", "--user", fmt::format("{}:{}", plan.uid, plan.gid)});
  add({"--cap-drop=ALL"});
  if (plan.uid == 0) {
    for (const std::string& name : DefaultCapabilityNames()) add({"--cap-add=" + name});
  }
  for (const Mount& mount : plan.mounts) add({"-v", MountText(mount)});
  for (const std::string& directory : plan.scratch) add({"--tmpfs", directory + ":exec,mode=0777"});
  add({"-w", plan.workdir});
  for (const auto& [name, value] : plan.env) add({"-e", fmt::format("{}={}", name, value)});
  // argv is complete: the image's own entrypoint would start the launcher twice.
  add({"--entrypoint", "",
       plan.image.config_digest.empty() ? plan.image.name : "sha256:" + plan.image.config_digest});
  argv.insert(argv.end(), plan.argv.begin(), plan.argv.end());
  return argv;
}

bool KeepsImages(std::string_view engine) { return engine == "docker" || engine == kPodman; }

Result<void> LoadImage(const std::string& engine, const RootImage& image,
                       const std::vector<std::string>& diff_ids, const ArchiveWriter& write,
                       Terminal& terminal) {
  const std::string id = "sha256:" + image.config_digest;
  if (HasImage(engine, id)) return {};
  // podman takes whole archives alone.
  std::size_t known = engine == kPodman ? 0 : KnownLayers(diff_ids);
  // The archive's last layer is always there, so that it is an archive at all.
  auto load = [&] {
    return Load(engine, write, known, terminal,
                fmt::format("{}: {} of {} layers are new", engine, diff_ids.size() - known,
                            diff_ids.size()));
  };
  auto loaded = load();
  if (!loaded && known > 0) {  // an image that had them may be gone since
    known = 0;
    loaded = load();
  }
  if (!loaded) return Wrap(std::move(loaded).error(), "giving the image to " + engine);
  if (!HasImage(engine, id))
    return Fail(engine + " loaded " + image.name + " under another id than " + id,
                "Its containerd image store renames images; turn it off in the daemon's settings, "
                "or use --engine oci.");
  return {};
}

bool DockerMayAnswer() {
  if (!FindExecutable("docker")) return false;
  std::string socket = "/var/run/docker.sock";
  if (const char* host = getenv("DOCKER_HOST"); host && *host) {
    std::string text = host;
    if (text.rfind("unix://", 0) != 0) return true;
    socket = text.substr(7);
  } else if (const char* context = getenv("DOCKER_CONTEXT"); context && *context) {
    return true;
  } else if (const char* home = getenv("HOME")) {
    std::ifstream in(fs::path(home) / ".docker/config.json");
    auto config = nlohmann::json::parse(in, nullptr, false);
    if (config.is_object() && config.value("currentContext", "default") != "default") return true;
  }
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket.size() >= sizeof address.sun_path) return true;
  std::memcpy(address.sun_path, socket.c_str(), socket.size() + 1);
  int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool answered = connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  close(fd);
  return answered;
}

Result<std::unique_ptr<Engine>> OpenDockerEngine() {
  if (!FindExecutable("docker"))
    return Missing("docker is not installed",
                   "Install it:  sudo apt-get install docker.io\n"
                   "or use the engine that needs no daemon:  --engine oci");
  auto asked = RunProcess({.argv = {"docker", "version", "--format", "{{.Server.Version}}"}});
  if (!asked) return Unexpected(std::move(asked).error());
  if (asked->exit_code != 0)
    return Unexpected(DaemonError(LastLines(asked->err.empty() ? asked->out : asked->err)));
  return std::make_unique<DockerEngine>("docker", "docker " + LastLines(asked->out));
}

Result<std::unique_ptr<Engine>> OpenPodmanEngine() {
  if (!FindExecutable(kPodman))
    return Missing("podman is not installed",
                   "Install it:  sudo apt-get install podman\n"
                   "or use the engine that needs neither:  --engine oci");
  auto asked = RunProcess({.argv = {kPodman, "version", "--format", "{{.Client.Version}}"}});
  if (!asked) return Unexpected(std::move(asked).error());
  if (asked->exit_code != 0)
    return Missing("podman: " + LastLines(asked->err.empty() ? asked->out : asked->err),
                   "podman info  says more; or use the engine that needs neither:  --engine oci");
  return std::make_unique<DockerEngine>(kPodman, "podman " + LastLines(asked->out));
}

}  // namespace envkit
