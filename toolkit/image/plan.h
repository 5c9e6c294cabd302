// Inside image/: the keys and trees that a plan leads to.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "image/build.h"

namespace envkit {

// Of images/scripts, run while an image is built.
inline constexpr char kBytecodeScript[] = "compile-bytecode.py";
inline constexpr char kNoCudaScript[] = "no-cuda.sh";

// Everything that shapes the image.
std::string PlanKey(const ImagePlan& plan);

// What the image will hold, by name.
std::vector<ImagePackage> PackagesOf(const ImagePlan& plan);

const LayerPlan* FindKind(const ImagePlan& plan, std::string_view kind);

// The version that the libraries in a layer of the kind no-cuda say they have; "0.0.0" without
// cuDNN.
std::string CudnnOf(const LayerPlan& no_cuda);

// What the runtime layer is compiled in: the builder's Debian tree, and a tree with those members
// of the wheels that the image's own layers do not have (headers).
struct BuilderPlan {
  std::string root_key;
  std::vector<LockedDeb> root_debs;
  LayerPlan torch;
  std::vector<std::vector<std::string>> except;  // per wheel of TORCH: what the image's layers have
};
BuilderPlan PlanBuilder(const ImagePlan& plan);

// The image config's part "config": entry point, environment, labels.
nlohmann::json ImageSettings(const ImagePlan& plan);

// NAME matches one of PATTERNS (fnmatch, in which * crosses "/") and none that begins with "!".
// Patterns of the second kind alone stand for all else; none at all match nothing.
bool MatchesAny(const std::vector<std::string>& patterns, const std::string& name);

// What the other parts of envkit's own files are: a script of images/scripts.
Result<std::string> ReadScript(std::string_view name);

}  // namespace envkit
