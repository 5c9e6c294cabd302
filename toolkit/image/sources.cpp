// What an image is built from, to travel with it.
#include <map>

#include "image/oci_layout.h"
#include "image/parts.h"
#include "image/plan.h"
#include "image/resolve.h"

namespace envkit {

Result<std::vector<SourceFile>> FetchSources(const Project& project, const ImagePlan& plan,
                                             const Store& store, Terminal& terminal) {
  const BuilderPlan builder = PlanBuilder(plan);
  std::map<std::string, LockedWheel> wheels;
  std::map<std::string, LockedDeb> debs;
  for (const LayerPlan& layer : plan.layers) {
    for (const LockedWheel& wheel : layer.wheels) wheels.emplace(wheel.sha256, wheel);
    for (const LockedDeb& deb : layer.debs) debs.emplace(deb.sha256, deb);
  }
  for (const LockedWheel& wheel : builder.torch.wheels) wheels.emplace(wheel.sha256, wheel);
  for (const LockedDeb& deb : builder.root_debs) debs.emplace(deb.sha256, deb);
  FetchRequest request;
  std::vector<SourceFile> sources;
  for (const auto& [sha256, wheel] : wheels) {
    request.wheels.push_back(wheel);
    sources.push_back({sha256, wheel.file, wheel.size});
  }
  for (const auto& [sha256, deb] : debs) {
    request.debs.push_back(deb);
    sources.push_back({sha256, deb.file, deb.size});
  }
  for (const auto& [name, data] : project.data) {
    if (data.path) continue;
    request.data.push_back(data);
    sources.push_back({data.sha256, data.file, 0});
  }
  ENVKIT_TRY(const FetchOutcome outcome, FetchLocked(project, request, store, terminal));
  if (!outcome.gone_debs.empty()) return Unexpected(GoneError(project, outcome.gone_debs));
  return sources;
}

}  // namespace envkit
