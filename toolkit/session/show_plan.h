// A RunPlan for people and for programs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "engine/run_plan.h"
#include "project/project.h"

namespace envkit {

// The equal docker command and why each value is what it is.
std::string PlanText(const RunPlan& plan);
nlohmann::ordered_json PlanToJson(const RunPlan& plan);  // as docs/schemas/run-plan.json
// Every effective setting of envkit.toml with its source, then what the plan derived from them.
std::string ExplainText(const Project& project, const RunPlan& plan);

}  // namespace envkit
