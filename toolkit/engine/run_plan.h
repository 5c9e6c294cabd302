// What would run: plain data, decided completely before anything starts. `--dry-run` prints it,
// tests compare it, an engine executes it and decides nothing more.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace envkit {

struct Mount {
  std::filesystem::path host;
  std::string container;
  bool read_only = false;
};

// The root file system, in the form each engine needs it.
struct RootImage {
  std::string name;                                // "mnist:train-cpu", the tag that docker shows
  std::string config_digest;                       // 64 hex digits
  std::vector<std::filesystem::path> layer_trees;  // lowest first; the oci engine mounts them
  std::map<std::string, std::string> env = {};     // of the image's own configuration
};

struct Reason {         // for --explain and --dry-run: every value that was not simply given
  std::string setting;  // "--shm-size 16g"
  std::string why;      // "auto: 4 ranks × 4 GiB (envkit.toml [run] shm = \"auto\")"
};

struct RunPlan {
  std::string job;     // "train"; "" for -- CMD
  std::string engine;  // docker | podman | oci
  RootImage image;
  std::vector<std::string> argv;  // complete, launcher included
  std::map<std::string, std::string> env;
  std::vector<Mount> mounts;
  std::vector<std::string> scratch;  // writable directories that vanish with the container: HOME
  std::string workdir = "/workspace";
  unsigned uid = 0, gid = 0;
  std::string hostname;
  bool gpus = false;
  std::vector<std::string> gpu_devices;  // CDI names or indices; empty with gpus: all
  std::uint64_t shm_bytes = 0;
  std::optional<std::uint64_t> memory_bytes;
  bool unlimited_memlock = true;  // what ranks may pin: NCCL, InfiniBand
  std::string network = "host";   // host | private
  bool terminal = false;          // a TTY on stdin and stdout
  std::vector<Reason> reasons;
};

}  // namespace envkit
