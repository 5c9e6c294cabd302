// Runs envkit-probe in an image, as a job of the project would run: the same engine, mounts,
// environment and user.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/terminal.h"
#include "engine/engine.h"
#include "host/facts.h"
#include "image/image.h"
#include "project/project.h"

namespace envkit {

RootImage RootImageOf(const Image& image);
std::vector<std::string> DiffIdsOf(const Image& image);

class ImageRunner {
 public:
  ImageRunner(const Project& project, const Image& image, const HostFacts& facts, Engine& engine)
      : project_(project), image_(image), facts_(facts), engine_(engine) {}

  struct Ran {
    int exit_code = 0;
    std::string output;  // stdout and stderr
    bool gpus = false;
  };
  Result<Ran> Run(const std::vector<std::string>& argv) const;

 private:
  const Project& project_;
  const Image& image_;
  const HostFacts& facts_;
  Engine& engine_;
};

}  // namespace envkit
