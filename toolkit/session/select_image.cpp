#include "session/select_image.h"

#include <fmt/format.h>

#include "image/stored.h"

namespace envkit {

Result<ImagePlan> PlanCurrent(const Environment& environment, const ImageChoice& choice) {
  std::string variant = choice.variant, why;
  if (variant.empty()) {
    ENVKIT_TRY(variant, ChooseVariant(environment.project, environment.lock, ProbeHost(), why));
  }
  const std::string profile = MainProfile(environment.project, choice.profile);
  return PlanImage(environment.project, environment.lock, environment.recipes, profile, variant);
}

Result<Image> SelectImage(const std::filesystem::path& directory, const ImageChoice& choice,
                          const Store& store) {
  if (!choice.reference.empty()) return FindStoredImage(choice.reference, store);
  ENVKIT_TRY(const Environment environment, LoadEnvironment(directory));
  ENVKIT_TRY(const ImagePlan plan, PlanCurrent(environment, choice));
  ENVKIT_TRY(std::optional<Image> image, FindImage(plan, store));
  if (image) return std::move(*image);
  return Usage(
      fmt::format("the image {}:{}-{} is not built", plan.name, plan.profile, plan.variant),
      fmt::format("Build it:  envkit build --profile {} --variant {}\n"
                  "or name another one: envkit image ls",
                  plan.profile, plan.variant));
}

}  // namespace envkit
