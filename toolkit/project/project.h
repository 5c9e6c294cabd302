// envkit.toml as typed, checked data. ParseProject reports every problem at once, each as
// "envkit.toml:7:9: error: …" with the line and a caret; nothing is guessed.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "project/requirement_files.h"

namespace envkit {

struct MountSetting {
  std::string host;  // relative to the project's root, "~" allowed
  std::string container;
  bool read_only = false;
};

struct EnvironmentSettings {
  std::string torch = "2.15";  // "2.15" or an exact "2.15.0"
  std::string cuda = "auto";   // auto | cpu | 12.6 | …
  std::string python = "3.13";
  std::vector<std::string> packages;  // requirement strings, local wheels
  std::vector<std::string> system;    // Debian packages
  std::string base = "debian:trixie";
  std::string system_policy = "pinned";        // pinned | refresh
  std::vector<std::string> requirements = {};  // files, as envkit.toml names them
  bool cuda_compiler = false;                  // nvcc and CUDA's headers in the dev image
};

struct RunSettings {
  std::string gpus = "all";
  std::vector<MountSetting> mounts = {{".", "/workspace", false}};
  std::string shm = "auto";
  std::map<std::string, std::string> env;
};

struct Job {
  std::string name;
  std::vector<std::string> command;
  std::string processes = "auto";      // auto | a number as text
  std::optional<std::string> profile;  // else [image] profile
  std::map<std::string, std::string> env;
};

// Files that a job reads: one artefact of the Python index by name and hash, or the user's own
// path.
struct DataArtefact {
  std::string name;
  std::string file;                 // a file's name on the index; a zip (or wheel) is unpacked
  std::string sha256;               // of that file
  std::optional<std::string> path;  // the user's own directory or file instead
  std::string mount;                // where the job sees it, read-only
};

struct IndexSetting {
  std::string name;
  std::string url;
};

struct Project {
  std::filesystem::path file;  // envkit.toml, absolute
  std::filesystem::path root;  // its directory
  std::string name;
  EnvironmentSettings environment;
  std::string profile = "auto";  // [image] profile: auto | train | python | dev
  // What images are for, as uname calls it: x86_64 | aarch64. Not of envkit.toml: LoadProject takes
  // this machine's own, and a command may ask for the other.
  std::string architecture = "x86_64";
  RunSettings run;
  std::map<std::string, Job> jobs;
  std::map<std::string, DataArtefact> data;
  std::vector<IndexSetting> indexes;
  // Of LoadProject: what [environment] requirements says, and every file besides envkit.toml whose
  // content decides what is locked (those files, and local wheels), sorted by path.
  std::vector<RequirementFile> requirement_files;
  std::vector<InputFile> inputs;
  // Where each effective value came from: "run.shm" → "envkit.toml:18" | "default".
  std::map<std::string, std::string> origin;
};

// FILE is only for messages and as the place of the project: nothing else is read. An Error of code
// kUsage has all diagnostics, preformatted.
Result<Project> ParseProject(std::string_view text, const std::filesystem::path& file);

// Looks for envkit.toml in DIRECTORY and its parents. None: kUsage, next step `envkit init`. Also
// reads the files that it names: see Project::inputs.
Result<Project> LoadProject(const std::filesystem::path& directory);

// This machine's own; what is neither of the two is taken for x86_64.
std::string HostArchitecture();
// As Debian and OCI say it: amd64 | arm64.
std::string DebianArchitecture(std::string_view architecture);
// Each architecture has a lock of its own: envkit.lock, envkit.aarch64.lock.
std::filesystem::path LockFile(const Project& project);

}  // namespace envkit
