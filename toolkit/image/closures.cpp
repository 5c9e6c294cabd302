#include "image/closures.h"

#include <fmt/format.h>

#include <algorithm>

namespace envkit {

Result<void> MarkClosures(const Project& project, const Recipes& recipes,
                          const PythonRequest& resolved, const PythonIndexes& indexes,
                          const Store& store, Terminal& terminal,
                          std::vector<LockedWheel>& wheels) {
  for (LockedWheel& wheel : wheels) wheel.roots.clear();
  for (const auto& [profile, recipe] : recipes) {
    if (!recipe.closure) continue;
    PythonRequest request = resolved;
    request.requirements = {resolved.requirements.front()};
    for (const auto* more : {&project.environment.packages, &recipe.requirements}) {
      request.requirements.insert(request.requirements.end(), more->begin(), more->end());
    }
    request.preferred = wheels;
    // uv has just read all that it needs; where its cache is off, it asks again.
    request.offline = true;
    auto resolution = ResolvePython(request, indexes, store, terminal);
    if (!resolution) {
      request.offline = false;
      resolution = ResolvePython(request, indexes, store, terminal);
    }
    if (!resolution) {
      return Wrap(std::move(resolution).error(),
                  fmt::format("resolving what the {} image needs", profile));
    }
    for (const LockedWheel& needed : resolution->wheels) {
      const auto wheel = std::find_if(wheels.begin(), wheels.end(), [&](const LockedWheel& locked) {
        return locked.name == needed.name && locked.version == needed.version;
      });
      if (wheel == wheels.end()) {
        return Fail(fmt::format("the {} image would need {} {}, which is not what all profiles "
                                "together need",
                                profile, needed.name, needed.version),
                    "Name the version in [environment] packages, then envkit lock.");
      }
      wheel->roots.push_back(profile);
    }
  }
  return {};
}

}  // namespace envkit
