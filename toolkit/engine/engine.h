// One interface over the container engines: a RunPlan in, an exit code out.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/terminal.h"
#include "engine/run_plan.h"

namespace envkit {

class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::string Name() const = 0;     // docker | podman | oci
  virtual std::string Version() const = 0;  // "runc 1.1.5", "docker 20.10.24"
  // Runs to the end in the foreground with our stdin, stdout and stderr; passes SIGINT, SIGTERM,
  // SIGHUP, SIGUSR1 and SIGUSR2 on. Returns the command's own exit code (128 + signal). When this
  // process is killed, nothing of the container is left. An Error: the container could not start.
  virtual Result<int> Run(const RunPlan& plan) = 0;
};

// Writes a docker-archive to a descriptor; KNOWN_LAYERS lowest layers are left out.
using ArchiveWriter = std::function<Result<void>(int fd, std::size_t known_layers)>;

// Whether ENGINE starts images of its own store, which must be given to it first: docker and
// podman.
bool KeepsImages(std::string_view engine);
// Makes the image known to such an engine. docker gets the layers alone that it lacks.
Result<void> LoadImage(const std::string& engine, const RootImage& image,
                       const std::vector<std::string>& diff_ids, const ArchiveWriter& write,
                       Terminal& terminal);

// A command in a root file system of the store, as the build needs it: LOWER trees, read-only, with
// a throw-away upper layer; used to compile the runtime in the builder root.
struct SandboxSpec {
  std::vector<std::filesystem::path> lower;  // lowest first
  std::vector<Mount> mounts;
  std::vector<std::string> argv;
  std::map<std::string, std::string> env;
  std::string workdir = "/";
  bool capture = true;                               // stdout and stderr together, else inherited
  std::function<void(std::string_view)> heard = {};  // what is captured, while it comes
};
struct SandboxResult {
  int exit_code = 0;
  std::string output;
};
// uid 0 inside; files that it writes into MOUNTS belong to the invoking user.
Result<SandboxResult> RunInSandbox(const SandboxSpec& spec);

// NAME: auto | docker | podman | oci. auto: docker when its daemon answers, else oci, else podman,
// which would have to be given a copy of the whole image. An engine that cannot work here is
// kMissing, and says what is missing and what would help.
Result<std::unique_ptr<Engine>> OpenEngine(std::string_view name);

// The docker command line that equals PLAN; podman's where that is the plan's engine.
std::vector<std::string> DockerArgv(const RunPlan& plan);

}  // namespace envkit
