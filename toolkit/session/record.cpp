#include "session/record.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

#include "base/files.h"
#include "session/plan_run.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string Stamp(std::chrono::system_clock::time_point time, const char* pattern) {
  return fmt::format(fmt::runtime(std::string("{:") + pattern + "}"),
                     fmt::gmtime(std::chrono::system_clock::to_time_t(time)));
}

// A symlink is replaced as files are: never absent, never half of one.
Result<void> PointLatest(const fs::path& record) {
  const fs::path link = record.parent_path() / "latest";
  const fs::path temporary = record.parent_path() / fmt::format(".latest-{}", getpid());
  std::error_code error;
  fs::remove(temporary, error);
  if (symlink(record.filename().c_str(), temporary.c_str()) != 0 ||
      rename(temporary.c_str(), link.c_str()) != 0) {
    return FileFailure("linking", link, errno);
  }
  return {};
}

}  // namespace

fs::path RecordPath(const fs::path& project_root, const std::string& job,
                    std::chrono::system_clock::time_point now) {
  return project_root / ".envkit" / "runs" /
         fmt::format("{}-{}", Stamp(now, "%Y%m%dT%H%M%SZ"), job);
}

Result<fs::path> MakeRecord(const fs::path& project_root, const std::string& job,
                            std::chrono::system_clock::time_point now) {
  const fs::path base = RecordPath(project_root, job, now);
  ENVKIT_CHECK(MakeDirectories(base.parent_path()));
  const fs::path ignore = project_root / ".envkit" / ".gitignore";
  std::error_code error;
  if (!fs::exists(ignore, error)) ENVKIT_CHECK(WriteFileAtomic(ignore, "*\n"));
  fs::path record = base;
  for (int number = 2; mkdir(record.c_str(), 0777) != 0; ++number) {
    if (errno != EEXIST) return FileFailure("making", record, errno);
    record = fmt::format("{}-{}", base.string(), number);
  }
  return record;
}

RunOutcome ReadOutcome(const fs::path& record) {
  RunOutcome outcome;
  if (const auto text = ReadFile(record / "log" / "outcome.json")) {
    const json document = json::parse(*text, nullptr, false);
    if (document.is_object()) outcome.root_cause = document.value("root_cause", json());
  }
  std::ifstream metrics(record / "metrics.jsonl");
  for (std::string line; std::getline(metrics, line);) {
    json entry = json::parse(line, nullptr, false);
    if (!entry.is_object()) continue;  // the last line of a run that was killed
    if (!outcome.first_step && entry.contains("time") && entry["time"].is_number()) {
      outcome.first_step = entry["time"].get<double>();
    }
    if (entry.value("final", json()) == true) outcome.final_metrics = std::move(entry);
  }
  return outcome;
}

Result<void> WriteSummary(const fs::path& record, const RunPlan& plan, const Image& image,
                          std::chrono::system_clock::time_point started,
                          std::optional<int> exit_code, const WallTime& wall,
                          const RunOutcome& outcome) {
  nlohmann::ordered_json summary;
  summary["schema"] = 1;
  summary["job"] = plan.job;
  summary["command"] = plan.argv;
  summary["image"] = {{"name", plan.image.name},
                      {"profile", image.profile},
                      {"variant", image.variant},
                      {"config_digest", image.config_digest}};
  summary["lock_digest"] = image.lock_digest;
  summary["engine"] = plan.engine;
  summary["world_size"] = WorldSize(plan);
  summary["started"] = Stamp(started, "%Y-%m-%dT%H:%M:%SZ");
  summary["wall_s"] = nullptr;
  summary["exit_code"] = nullptr;
  if (exit_code) {
    summary["exit_code"] = *exit_code;
    summary["wall_s"] = {{"prepare", wall.prepare}, {"start", nullptr}, {"job", wall.job}};
    if (wall.start) summary["wall_s"]["start"] = *wall.start;
  }
  summary["root_cause"] = outcome.root_cause;
  json metrics = outcome.final_metrics.is_object() ? outcome.final_metrics : json::object();
  metrics.erase("final");
  metrics.erase("time");
  summary["metrics"] = metrics;
  ENVKIT_CHECK(WriteFileAtomic(record / "summary.json", summary.dump(2) + "\n"));
  return PointLatest(record);
}

}  // namespace envkit
