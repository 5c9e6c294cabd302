// `envkit render compose` and `envkit render devcontainer`: finds out what the pure functions of
// compose.h need.
#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"
#include "base/terminal.h"

namespace envkit {

struct RenderRequest {
  std::string job;  // of a compose file; empty: train, where there is one
  std::string gpus, memory, shm, variant;
  std::filesystem::path output;  // empty: to stdout
};

// With OUTPUT also the files of keys and tokens that the compose file names, and the way in.
Result<int> RenderCompose(const std::filesystem::path& directory, const RenderRequest& request,
                          Terminal& terminal);
// OUTPUT is a directory, and gets the Dockerfile as well.
Result<int> RenderDevContainer(const std::filesystem::path& directory, const RenderRequest& request,
                               Terminal& terminal);

}  // namespace envkit
