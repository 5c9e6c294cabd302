#include "session/run_job.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/files.h"
#include "engine/engine.h"
#include "session/builtin.h"
#include "session/explain_failure.h"
#include "session/prepare.h"
#include "session/record.h"
#include "session/show_plan.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using std::chrono::steady_clock;
using std::chrono::system_clock;

double UnixTime(system_clock::time_point time) {
  return std::chrono::duration<double>(time.time_since_epoch()).count();
}

std::string Thousands(double number) {
  std::string text = fmt::format("{:.0f}", number);
  for (std::size_t at = text.size(); at > 3; at -= 3) text.insert(at - 3, ",");
  return text;
}

// A path as the user would type it.
std::string Shown(const fs::path& path) {
  std::error_code error;
  const fs::path here = fs::current_path(error);
  const fs::path relative = path.lexically_relative(here);
  return error || relative.empty() || *relative.begin() == ".." ? path.string() : relative.string();
}

// The last words of a run: what came out, where the time went, where things are.
void ReportEnd(const RunPlan& plan, const fs::path& record, int code, const WallTime& wall,
               const RunOutcome& outcome, Terminal& terminal) {
  std::string times = fmt::format("prepare {}", HumanSeconds(wall.prepare));
  if (wall.start) times += fmt::format(", start {}", HumanSeconds(*wall.start));
  times += fmt::format(", {} {}", wall.start ? "train" : "job", HumanSeconds(wall.job));
  const double total = wall.prepare + wall.start.value_or(0) + wall.job;
  if (code == static_cast<int>(ExitCode::kPreempted)) {
    terminal.Step(
        "stopped",
        fmt::format("with a checkpoint · go on with: envkit run {} -- --resume", plan.job));
  } else if (code != 0) {
    terminal.Step("failed",
                  fmt::format("exit code {} · {} ({})", code, HumanSeconds(total), times));
    // The image's launcher has said it, unless it is an older one.
    if (const auto symptom = ExplainFailure(record, outcome)) {
      terminal.Note(fmt::format("{:<11} {}", "means", symptom->meaning));
      terminal.Note(fmt::format("{:<11} {}", "do", symptom->next));
    }
  }
  const nlohmann::json none = nlohmann::json::object();  // of a job that writes no metrics
  const auto& metrics = outcome.final_metrics.is_object() ? outcome.final_metrics : none;
  if (code == 0) {
    std::string line;
    if (metrics.contains("test_accuracy")) {
      line = fmt::format("test accuracy {:.2f} % · ", 100 * metrics.value("test_accuracy", 0.0));
    }
    terminal.Step("done", line + fmt::format("{} ({})", HumanSeconds(total), times));
    if (const double speed = metrics.value("samples_per_second", 0.0); speed > 0) {
      const int world = WorldSize(plan);
      terminal.Note(fmt::format("{:<11} {} images/s, {} per rank ({} {})", "speed",
                                Thousands(speed), Thousands(speed / world), world,
                                world == 1 ? "rank" : "ranks"));
    }
    if (metrics.contains("model") && metrics["model"].is_string()) {
      terminal.Note(
          fmt::format("{:<11} {}", "model", Shown(record / metrics["model"].get<std::string>())));
    }
  }
  std::error_code error;
  if (fs::exists(record / "events", error)) {
    terminal.Note(fmt::format("{:<11} envkit run tensorboard", "curves"));
  }
  terminal.Note(fmt::format("{:<11} {}", "record", Shown(record)));
}

int Show(const RunRequest& request, const Project& project, const RunPlan& plan, bool json,
         Terminal& terminal) {
  if (json) {
    terminal.Answer(PlanToJson(plan).dump(2));
  } else {
    terminal.Answer(request.explain ? ExplainText(project, plan) : PlanText(plan));
  }
  return 0;
}

// The line that says what starts; nothing for a command, whose output is all that is wanted.
void SayStart(const RunPlan& plan, const RunSetting& setting, const Project& project,
              const std::string& engine, Terminal& terminal) {
  const int ranks = WorldSize(plan);
  const std::string many = fmt::format("{} {}", ranks, ranks == 1 ? "rank" : "ranks");
  const std::string where =
      setting.variant == "cuda"
          ? fmt::format("{} on {}", many, plan.gpus ? "GPUs" : "CPU, in the image for GPUs")
          : fmt::format("{}: {} on CPU (gloo)", setting.variant_why, many);
  terminal.Step("run",
                fmt::format("{} · {} engine ({}) · {}", project.name, plan.engine, engine, where));
}

}  // namespace

Result<int> RunJob(const fs::path& directory, const RunRequest& request, bool json,
                   Terminal& terminal) {
  const auto begin = steady_clock::now();
  const auto started = system_clock::now();
  const HostFacts facts = ProbeHost();
  const bool show_only = request.dry_run || request.explain;
  // Before a build of minutes: an engine that is missing is known at once.
  std::unique_ptr<Engine> engine;
  if (!show_only || request.engine == "auto") {
    ENVKIT_TRY(engine, OpenEngine(request.engine));
  }
  ENVKIT_TRY(Prepared prepared, Prepare(directory, request, facts, terminal));
  const Project& project = prepared.environment.project;
  RunSetting& setting = prepared.setting;
  setting.engine = engine ? engine->Name() : request.engine;
  if (!request.job.empty()) setting.record = RecordPath(project.root, request.job, started);
  if (show_only) {
    ENVKIT_TRY(const RunPlan plan, PlanRun(project, request, setting, facts));
    return Show(request, project, plan, json, terminal);
  }
  const Image& image = *prepared.image;
  ENVKIT_CHECK(GiveToEngine(setting, image, terminal));
  if (!request.job.empty()) {
    ENVKIT_TRY(setting.record, MakeRecord(project.root, request.job, started));
  }
  ENVKIT_TRY(const RunPlan plan, PlanRun(project, request, setting, facts));
  if (!request.builtin.empty()) ENVKIT_CHECK(WriteAccounts(request, setting));
  if (setting.record.empty()) return engine->Run(plan);

  WallTime wall;
  ENVKIT_CHECK(WriteSummary(setting.record, plan, image, started, std::nullopt, wall, {}));
  SayStart(plan, setting, project, engine->Version(), terminal);
  wall.prepare = SecondsSince(begin);
  const double prepared_at = UnixTime(system_clock::now());
  const auto run_begin = steady_clock::now();
  const Result<int> code = engine->Run(plan);
  const double ran = SecondsSince(run_begin);
  if (!code) return Wrap(code.error(), "starting " + request.job);
  const RunOutcome outcome = ReadOutcome(setting.record);
  if (outcome.first_step) wall.start = std::clamp(*outcome.first_step - prepared_at, 0.0, ran);
  wall.job = ran - wall.start.value_or(0);
  ENVKIT_CHECK(WriteSummary(setting.record, plan, image, started, *code, wall, outcome));
  ReportEnd(plan, setting.record, *code, wall, outcome, terminal);
  return *code;
}

}  // namespace envkit
