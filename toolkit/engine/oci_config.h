// A RunPlan as an OCI runtime's config.json. Pure: golden tests compare it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "engine/gpu_edits.h"
#include "engine/run_plan.h"

namespace envkit {

struct OciSetting {
  std::string root = "root";    // the mounted layers
  std::string hosts, resolv;    // files to mount, empty: leave out
  bool user_namespace = false;  // the runtime runs as the only mapped id of an outer one
  bool tty_group = true;        // gid 5 exists in our user namespace
  bool pid_namespace = true;    // false: /proc cannot be mounted, the host's is used
  GpuEdits gpus;
};

nlohmann::json OciConfig(const RunPlan& plan, const OciSetting& setting);

}  // namespace envkit
