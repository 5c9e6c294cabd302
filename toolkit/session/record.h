// A run's record, .envkit/runs/<UTC time>-<job>/: what `envkit ps`, TensorBoard and people read
// later.
#pragma once

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/result.h"
#include "engine/run_plan.h"
#include "image/image.h"

namespace envkit {

// A new directory of this second; `latest` is pointed to it by WriteSummary, once there is
// something in it. .envkit ignores itself in git.
Result<std::filesystem::path> MakeRecord(const std::filesystem::path& project_root,
                                         const std::string& job,
                                         std::chrono::system_clock::time_point now);
// What MakeRecord would make, for plans that nobody executes.
std::filesystem::path RecordPath(const std::filesystem::path& project_root, const std::string& job,
                                 std::chrono::system_clock::time_point now);

struct WallTime {               // seconds
  double prepare = 0;           // pulling and building
  std::optional<double> start;  // from there to the first training step; nullopt: none was logged
  double job = 0;               // the rest
};

// What the record's files say of a run that ended.
struct RunOutcome {
  nlohmann::json root_cause;         // the launcher's, null where nothing failed
  nlohmann::json final_metrics;      // the last line of metrics.jsonl where it is final
  std::optional<double> first_step;  // Unix time of the first logged step
};
RunOutcome ReadOutcome(const std::filesystem::path& record);

// summary.json, and `latest`. EXIT_CODE nullopt: the run goes on (or was killed with all of
// envkit).
Result<void> WriteSummary(const std::filesystem::path& record, const RunPlan& plan,
                          const Image& image, std::chrono::system_clock::time_point started,
                          std::optional<int> exit_code, const WallTime& wall,
                          const RunOutcome& outcome);

}  // namespace envkit
