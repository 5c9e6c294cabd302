#include "engine/engine.h"

#include <fmt/format.h>

#include "engine/engines.h"

namespace envkit {

Result<std::unique_ptr<Engine>> OpenEngine(std::string_view name) {
  if (name == "docker") return OpenDockerEngine();
  if (name == "podman") return OpenPodmanEngine();
  if (name == "oci") return OpenOciEngine();
  if (name != "auto")
    return Usage(fmt::format("no engine is called \"{}\"", name),
                 "There are: auto, docker, podman, oci.");
  if (DockerMayAnswer()) {
    if (auto docker = OpenDockerEngine()) return docker;
  }
  auto oci = OpenOciEngine();
  if (oci) return oci;
  if (auto podman = OpenPodmanEngine()) return podman;
  return oci;
}

}  // namespace envkit
