// What a container needs to use the host's NVIDIA GPUs: by the host's CDI specification where one
// is installed as JSON, else found by ourselves. Everything below a root prefix, so that captured
// trees can stand in for a machine.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "engine/run_plan.h"

namespace envkit {

struct GpuHook {     // an OCI hook, as CDI has them
  std::string name;  // createContainer, prestart, …
  std::string path;
  std::vector<std::string> args;  // with argv[0]
  std::vector<std::string> env;
};

struct GpuEdits {
  std::string source;                      // "/etc/cdi/nvidia.json", "driver files of this host"
  std::map<std::string, std::string> env;  // set; LD_LIBRARY_PATH is put in front of the image's
  std::vector<Mount> mounts;               // driver libraries and programs, read-only
  std::vector<std::string> devices;        // nodes, the same path inside
  std::vector<GpuHook> hooks;
};

// DEVICES: names in the specification or indices; empty: all of them. LDCONFIG is what
// `ldconfig -p` prints on the host. kMissing where there is no device or no driver library.
Result<GpuEdits> FindGpuEdits(const std::filesystem::path& root,
                              const std::vector<std::string>& devices, std::string_view ldconfig);

// One CDI document; kMissing where it has no device of kind nvidia.com/gpu that was asked for.
Result<GpuEdits> CdiEdits(std::string_view json, const std::string& file,
                          const std::vector<std::string>& devices);

}  // namespace envkit
