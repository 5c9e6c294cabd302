// The project's services for tools that know docker but not envkit: a compose file, and a
// development container. Pure functions of plans, so that what they start is what envkit starts.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "engine/run_plan.h"

namespace envkit {

struct ComposeService {
  std::string name;
  RunPlan plan;
  std::string profile;               // what has to be named for it to start: train | dev
  int port = 0;                      // where it answers on 127.0.0.1; 0: a job that ends
  std::vector<std::string> secrets;  // files of ComposeSetting::secrets
};

struct ComposeSetting {
  std::string project;
  std::filesystem::path base;       // the compose file's directory, to which paths are relative
  std::filesystem::path secrets;    // a directory for this user alone
  std::vector<std::string> images;  // profiles whose images docker must have: train, dev
  std::string variant;
};

// The same arguments give the same text.
std::string ComposeText(const ComposeSetting& setting, const std::vector<ComposeService>& services);

struct DevContainer {
  std::string project;
  std::string variant;                     // cpu | cuda
  std::filesystem::path root;              // the project's
  std::filesystem::path home;              // the user's, written as ${localEnv:HOME}
  RunPlan plan;                            // of a shell in the dev image
  std::vector<std::string> environment{};  // [run.env]: names of PLAN's variables
};

// devcontainer.json, and the Dockerfile that stands beside it: the image has no ordinary user.
std::string DevContainerText(const DevContainer& container);
std::string DevContainerDockerfile(const DevContainer& container);

}  // namespace envkit
