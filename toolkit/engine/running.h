// What of ours runs on this machine, and what was changed in it since it started: for docker by its
// own words, for the oci engine by the upper directory of the container's overlay, which its
// namespaces show.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace envkit {

struct RunningContainer {
  std::string engine;         // docker | podman | oci
  std::string name;           // the engine's; oci: "train-4711", job and first process
  std::string job;            // empty: a command
  std::string config_digest;  // docker: of its image
  std::vector<std::filesystem::path> layer_trees;  // oci: lowest first
  std::vector<std::string> mounts;                 // where something of the host is shown
  std::vector<long> pids;            // as this machine counts them; the first one first
  std::vector<std::string> changes;  // "changed /usr/bin/x", outside of mounts
  std::string session;               // of `envkit dev`: its id
  std::filesystem::path project;     // what is mounted at /workspace
  // oci: how its processes run.
  std::vector<std::string> env;
  std::string workdir;
  unsigned uid = 0, gid = 0;
};

// ENGINE: auto (all of them) | docker | podman | oci. One that does not answer has none with
// "auto".
Result<std::vector<RunningContainer>> FindRunning(std::string_view engine);

// Pure parts, for tests. PROC is /proc, or a captured tree.
std::vector<RunningContainer> FindOciContainers(const std::filesystem::path& proc);
// Of `docker inspect` (one object) and `docker diff`, or podman's.
Result<RunningContainer> DockerContainer(std::string_view inspected, std::string_view diff,
                                         const std::string& engine = "docker");
// What an overlay's UPPER changes in LOWER; MOUNTS and places for temporary files do not count.
std::vector<std::string> UpperChanges(const std::filesystem::path& upper,
                                      const std::vector<std::filesystem::path>& lower,
                                      const std::vector<std::string>& mounts);

struct MappedFile {
  std::string path;            // as the process sees it
  std::filesystem::path file;  // where its content can be read
  bool deleted = false;        // its name is gone, or belongs to another file by now
};
// Executable mappings of files, each once.
std::vector<MappedFile> MappedFiles(long pid, const std::filesystem::path& proc = "/proc");

}  // namespace envkit
