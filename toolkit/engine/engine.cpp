#include "engine/engine.h"

#include <fmt/format.h>

#include "engine/engines.h"

namespace envkit {

Result<std::unique_ptr<Engine>> OpenEngine(std::string_view name) {
  if (name == "docker") return OpenDockerEngine();
  if (name == "oci") return OpenOciEngine();
  if (name != "auto")
    return Usage(fmt::format("no engine is called \"{}\"", name),
                 "This version has: auto, docker, oci.");
  if (DockerMayAnswer()) {
    if (auto docker = OpenDockerEngine()) return docker;
  }
  return OpenOciEngine();
}

}  // namespace envkit
