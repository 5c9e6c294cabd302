// Which image a command means: a tag, the beginning of a digest, or the project's current one.
#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"
#include "image/image.h"
#include "image/store.h"
#include "session/environment.h"

namespace envkit {

struct ImageChoice {
  std::string reference;         // empty: the project's current image
  std::string profile, variant;  // of the project's; empty: as `envkit build` would choose
};
// kUsage: no such image, or the project's is not built.
Result<Image> SelectImage(const std::filesystem::path& directory, const ImageChoice& choice,
                          const Store& store);

// The plan of the project's current image.
Result<ImagePlan> PlanCurrent(const Environment& environment, const ImageChoice& choice);

}  // namespace envkit
