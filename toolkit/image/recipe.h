// The image profiles as data: images/profiles/*.toml. What they ask of Debian and of the Python
// index goes into the lock; what they select out of the wheels shapes the layers.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"

namespace envkit {

struct WheelSelection {
  std::string name;                  // normalised distribution name, as CUDA 13 has it
  std::string variant;               // cpu | cuda | both
  std::vector<std::string> members;  // paths in the wheel, fnmatch patterns; empty: all of it
  bool if_locked = false;            // not every version of torch asks for it
};

struct Recipe {
  std::string profile;                    // train | python | dev | builder
  std::vector<std::string> debian;        // packages beyond the essential set
  std::vector<std::string> requirements;  // Python requirements beyond torch and the project's own
  std::vector<WheelSelection> wheels;
};

using Recipes = std::map<std::string, Recipe>;  // by profile

// DIRECTORY holds profiles/*.toml.
Result<Recipes> LoadRecipes(const std::filesystem::path& directory);
// Over what influences the lock (debian, requirements), so that other edits do not make it stale.
std::string RecipesDigest(const Recipes& recipes);

// images/ and runtime/ of this envkit: $ENVKIT_SHARE, else <directory of the
// program>/../share/envkit.
Result<std::filesystem::path> ShareDirectory();

}  // namespace envkit
