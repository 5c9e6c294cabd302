// `envkit build --dry-run`: an ImagePlan for people and as data. Nothing is fetched or built.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "image/build.h"

namespace envkit {

// As docs/schemas/build-plan.json.
nlohmann::ordered_json ImagePlanToJson(const ImagePlan& plan, const Store& store);
// One line a layer, and what would be downloaded; ends with a newline.
std::string ImagePlanText(const ImagePlan& plan, const Store& store);

}  // namespace envkit
