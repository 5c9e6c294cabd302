// The engine that needs no daemon: an OCI runtime over an overlay of the store's layers, in
// namespaces that vanish with it.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>

#include "base/process.h"
#include "engine/engines.h"
#include "engine/gpu_edits.h"
#include "engine/isolate.h"
#include "engine/memory_cgroup.h"
#include "engine/oci_config.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

// Marks an Error of a runtime that made no container: another one may still do it.
const std::string kCreating = "making the container";

struct Runtime {
  std::string name;  // crun | runc
  fs::path program;
};

// What these ranks pin (NCCL, InfiniBand) and open (data loaders) has no use for the desktop
// defaults; where we may not lift a limit, its hard value serves.
void RaiseLimits() {
  rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY}, limit{};
  if (setrlimit(RLIMIT_MEMLOCK, &unlimited) != 0 && getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_MEMLOCK, &limit);
  }
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = std::max<rlim_t>(limit.rlim_cur, std::min<rlim_t>(limit.rlim_max, 1048576));
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

std::string Slurp(const fs::path& file) {
  std::ifstream in(file);
  return {std::istreambuf_iterator<char>(in), {}};
}

// The host's, and the host's own name: Gloo warns and NCCL hesitates where it does not resolve.
std::string HostsFile(const std::string& hostname) {
  std::string text = Slurp("/etc/hosts");
  if (text.empty()) text = "127.0.0.1\tlocalhost\n::1\tlocalhost\n";
  if (text.back() != '\n') text += '\n';
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line.substr(0, line.find('#')));
    for (std::string word; words >> word;)
      if (word == hostname) return text;
  }
  return text + "127.0.1.1\t" + hostname + "\n";
}

bool GroupIsMapped(unsigned gid) {
  std::ifstream in("/proc/self/gid_map");
  for (unsigned long inside, outside, count; in >> inside >> outside >> count;)
    if (gid >= inside && gid - inside < count) return true;
  return false;
}

// The error lines of a runtime's log.
std::string ErrorsIn(const std::string& log) {
  std::string errors;
  std::istringstream lines(log);
  for (std::string line; std::getline(lines, line);) {
    auto entry = nlohmann::json::parse(line, nullptr, false);
    if (!entry.is_object() || entry.value("level", "") != "error") continue;
    if (!errors.empty()) errors += '\n';
    errors += entry.value("msg", "");
  }
  return errors;
}

// runc looks for its cgroups where /proc says that they are mounted, and goes on without them only
// where it finds a read-only file system.
void MakeCgroupsReadOnly(const fs::path& scratch) {
  std::ifstream in("/proc/self/mountinfo");
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string word, point;
    for (int i = 0; i < 5 && words >> point; ++i) {
    }
    if (line.find(" - cgroup") == line.npos || point.rfind(scratch.string() + "/", 0) != 0)
      continue;
    std::error_code ignored;
    fs::create_directories(point, ignored);
    (void)mount("tmpfs", point.c_str(), "tmpfs", MS_RDONLY, nullptr);
  }
}

[[noreturn]] void ExecRuntime(const Runtime& runtime, bool terminal) {
  if (!terminal && isatty(0)) {
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    dup2(null, 0);
  }
  std::vector<std::string> argv{runtime.program.string(), "--root=state", "--log-format=json"};
  if (runtime.name == "crun") {
    argv.insert(argv.end(), {"--log=file:log", "--cgroup-manager=disabled"});
  } else {
    // Its word for: go on where cgroups cannot be used.
    argv.insert(argv.end(), {"--log=log", "--rootless=true"});
  }
  argv.insert(argv.end(), {"run", "--bundle=.", "--pid-file=pid", "envkit"});
  std::vector<char*> words;
  words.reserve(argv.size() + 1);
  for (std::string& word : argv) words.push_back(word.data());
  words.push_back(nullptr);
  execv(words[0], words.data());
  _exit(126);
}

Result<int> InNamespaces(Isolated& isolated, const Runtime& runtime, const RunPlan& plan,
                         OciSetting setting) {
  ENVKIT_TRY(fs::path scratch, MountScratch());
  ENVKIT_CHECK(MountOverlay(plan.image.layer_trees, isolated.user_namespace()));
  setting.root = scratch / "root";
  setting.hosts = scratch / "hosts";
  setting.resolv = scratch / "resolv.conf";
  setting.user_namespace = isolated.user_namespace();
  setting.tty_group = GroupIsMapped(5);
  setting.pid_namespace = isolated.pid_namespace();
  std::ofstream("hosts") << HostsFile(plan.hostname);
  std::ofstream("resolv.conf") << Slurp("/etc/resolv.conf");
  std::ofstream("config.json") << OciConfig(plan, setting).dump();
  RaiseLimits();
  if (runtime.name == "runc") MakeCgroupsReadOnly(scratch);
  const int code = isolated.RunChild([&] { ExecRuntime(runtime, plan.terminal); }, "pid");
  const std::string errors = ErrorsIn(Slurp("log"));
  const bool created = access("pid", F_OK) == 0;
  if (created && errors.empty()) return code;
  // Missing commands are found early by crun, late by runc; no other runtime would find them.
  if (created || errors.find("executable file") != errors.npos)
    return Fail(fmt::format("{}: {}", runtime.name, errors));
  return Wrap(
      Error{ExitCode::kMissing,
            fmt::format("{}: {}", runtime.name,
                        errors.empty() ? fmt::format("ended with exit code {}", code) : errors),
            "See: envkit doctor",
            {},
            false},
      kCreating);
}

class OciEngine : public Engine {
 public:
  OciEngine(std::vector<Runtime> runtimes, std::string version)
      : runtimes_(std::move(runtimes)), version_(std::move(version)) {}

  std::string Name() const override { return "oci"; }
  std::string Version() const override { return version_; }

  Result<int> Run(const RunPlan& plan) override {
    OciSetting setting;
    if (plan.gpus) {
      auto ldconfig = RunProcess({.argv = {"ldconfig", "-p"}});
      ENVKIT_TRY(setting.gpus,
                 FindGpuEdits("/", plan.gpu_devices, ldconfig ? ldconfig->out : std::string()));
    }
    std::optional<MemoryCgroup> memory;
    if (plan.memory_bytes) {
      ENVKIT_TRY(memory, MemoryCgroup::Make(*plan.memory_bytes));
    }
    IsolateOptions options;
    options.user_namespace = geteuid() != 0;
    options.own_session = !plan.terminal;
    if (memory) options.before = [&] { return memory->Join(); };

    Result<int> first = Fail("no runtime");
    for (const Runtime& runtime : runtimes_) {
      auto result = RunIsolated(options, [&](Isolated& isolated) {
        return InNamespaces(isolated, runtime, plan, setting);
      });
      const bool another_may =
          !result && !result.error().doing.empty() && result.error().doing.front() == kCreating;
      if (&runtime == &runtimes_.front() || !another_may) first = std::move(result);
      if (!another_may) break;
    }
    if (memory) memory->Remove();
    return first;
  }

 private:
  std::vector<Runtime> runtimes_;
  std::string version_;
};

}  // namespace

Result<std::unique_ptr<Engine>> OpenOciEngine() {
  std::vector<Runtime> runtimes;
  const bool ordinary = geteuid() != 0;
  for (const char* name : {"crun", "runc"}) {
    // runc wants uid 0 mapped inside, and an ordinary user has one id to map: the own one.
    if (ordinary && std::string_view(name) == "runc") continue;
    if (auto program = FindExecutable(name)) runtimes.push_back({name, *program});
  }
  if (runtimes.empty() && ordinary && FindExecutable("runc"))
    return Missing("ordinary users need crun; runc, which is installed, works for root only here",
                   "Install it:  sudo apt-get install crun");
  if (runtimes.empty())
    return Missing("no OCI runtime is installed: crun or runc",
                   "Install one:  sudo apt-get install crun");
  // "crun version 1.8.1"
  auto printed = RunProcess({.argv = {runtimes.front().program.string(), "--version"}});
  std::string version = runtimes.front().name;
  if (printed) {
    std::istringstream words(printed->out);
    std::string name, word, number;
    if (words >> name >> word >> number) version += " " + number;
  }
  return std::make_unique<OciEngine>(std::move(runtimes), std::move(version));
}

}  // namespace envkit
