// `envkit build`: Project + Lock → ImagePlan → store → Image. Never resolves. Killed at any moment
// it leaves nothing that a later build trusts; layers that were finished are reused.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/terminal.h"
#include "image/image.h"
#include "image/recipe.h"
#include "image/store.h"
#include "project/lock.h"
#include "project/project.h"

namespace envkit {

// One layer before it exists. KEY is the sha256 of everything that shapes it.
struct LayerPlan {
  std::string what;  // "debian", "torch", "nvidia-cudnn-cu13", "libraries-3", "runtime", "recipe"
  std::string kind;  // os | wheel | no-cuda | bytecode | recipe | runtime
  std::string key;
  std::int64_t mtime = 0;                         // of every file in it
  std::string site;                               // where wheels go, without a leading slash
  std::vector<LockedWheel> wheels;                // kind wheel; the others: what they are made from
  std::vector<std::vector<std::string>> members;  // per wheel; empty: all of it
  std::vector<LockedDeb> debs;                    // kind os; runtime, no-cuda: the builder's
  std::vector<LockedWheel> left_out = {};         // kind no-cuda: of these there is the metadata
  // Kind recipe: path → content. "PATH/" is a directory, "PATH@" a symlink to the content.
  std::map<std::string, std::string> files;
  std::vector<std::string> sources;  // kind bytecode, no-cuda: layers' keys
  std::string base = {};  // kind os without debs: the OCI image that it is, as envkit.toml has it
};

struct ImagePlan {
  std::string name, profile, variant, architecture, lock_digest;
  std::int64_t source_date_epoch = 0;
  std::vector<LayerPlan> layers;           // lowest first
  std::map<std::string, std::string> env;  // of the image's configuration, besides PATH and LANG
};

Result<ImagePlan> PlanImage(const Project& project, const Lock& lock, const Recipes& recipes,
                            const std::string& profile, const std::string& variant);

// The image when all its layers are in the store, in a few milliseconds; else nullopt.
Result<std::optional<Image>> FindImage(const ImagePlan& plan, const Store& store);

// Runs argv in a stack of trees; commands/ passes engine's RunInSandbox here, so that image/ and
// engine/ need not know each other.
struct BuildSandbox {
  std::vector<std::filesystem::path> lower;  // lowest first
  struct Bind {
    std::filesystem::path host;
    std::string container;
    bool read_only = false;
  };
  std::vector<Bind> binds;
  std::vector<std::string> argv;
  std::map<std::string, std::string> env;
  std::string workdir = "/";
  bool capture = true;
  // Its output while it runs, in pieces; on the thread that runs it, which waits meanwhile.
  std::function<void(std::string_view)> heard = {};
};
struct BuildSandboxResult {
  int exit_code = 0;
  std::string output;
};
using RunInRoot = std::function<Result<BuildSandboxResult>(const BuildSandbox&)>;

struct BuildReport {
  double seconds = 0;
  std::vector<std::string> built, reused;  // diff_ids
};

// Builds what is missing. system_policy = "refresh": debs that are gone re-lock the Debian part,
// print the diff and rewrite envkit.lock; "pinned": an error that names both ways out.
Result<Image> BuildImage(const Project& project, const Lock& lock, const Recipes& recipes,
                         const std::string& profile, const std::string& variant, const Store& store,
                         const RunInRoot& run, Terminal& terminal, BuildReport* report = nullptr);

// The trees of the builder: Debian with compilers, and torch with its headers at the image's own
// place. Lowest first.
Result<std::vector<std::filesystem::path>> EnsureBuilderRoot(
    const Project& project, const Lock& lock, const Recipes& recipes, const std::string& variant,
    const Store& store, Terminal& terminal);

// A data artefact, fetched, verified and unpacked: the directory to mount. User paths are checked.
Result<std::filesystem::path> EnsureData(const Project& project, const DataArtefact& data,
                                         const Store& store, Terminal& terminal);

// A docker-archive (docker load) to FD, without the KNOWN_LAYERS lowest layers' files.
Result<void> WriteDockerArchive(const Image& image, int fd, std::size_t known_layers);

}  // namespace envkit
