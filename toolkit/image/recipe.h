// The image profiles as data: images/profiles/*.toml. What they ask of Debian and of the Python
// index goes into the lock; what they select out of the wheels shapes the layers.
#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "project/project.h"

namespace envkit {

struct WheelSelection {
  std::string name;     // normalised distribution name, as CUDA 13 has it
  std::string variant;  // cpu | cuda | both | aarch64 (both, on such machines)
  // Paths in the wheel, fnmatch patterns; empty: all of it. "!PATTERN" leaves files out.
  std::vector<std::string> members;
  bool if_locked = false;  // not every version of torch asks for it
};

struct Recipe {
  std::string profile;                    // train | python | dev | builder
  std::vector<std::string> debian;        // packages beyond the essential set
  std::vector<std::string> requirements;  // Python requirements beyond torch and the project's own
  std::vector<WheelSelection> wheels;
  // Every wheel that torch, the project's own packages and REQUIREMENTS need, whole where WHEELS
  // says nothing else.
  bool closure = false;
  // This profile and those that it extends, the lowest first; what one of them has, it has.
  std::vector<std::string> chain = {};
  // By variant, patterns of wheels' names: of these the image has the metadata alone, and for the
  // libraries that torch is linked with stand-ins that only say no.
  std::map<std::string, std::vector<std::string>> left_out = {};
  // Besides images/rootfs, in the recipe layer: directory of envkit's own files → where in the
  // image.
  std::map<std::string, std::string> files = {};
  std::map<std::string, std::string> env = {};  // of the image's configuration
};

using Recipes = std::map<std::string, Recipe>;  // by profile

// DIRECTORY holds profiles/*.toml. OPTIONS are those [options.NAME] of the profiles that are on.
Result<Recipes> LoadRecipes(const std::filesystem::path& directory,
                            const std::set<std::string>& options = {});
// What PROJECT switches on.
std::set<std::string> ProfileOptions(const Project& project);
// Over what influences the lock (debian, requirements), so that other edits do not make it stale.
std::string RecipesDigest(const Recipes& recipes);

// images/ and runtime/ of this envkit: $ENVKIT_SHARE, else <directory of the
// program>/../share/envkit.
Result<std::filesystem::path> ShareDirectory();

}  // namespace envkit
