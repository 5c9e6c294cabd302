#include "session/record.h"

#include <doctest/doctest.h>

#include <fstream>

#include "base/files.h"
#include "base/scratch.h"

using namespace envkit;
namespace fs = std::filesystem;

namespace {

const auto kNoon = std::chrono::system_clock::from_time_t(1795608000);  // 2026-11-25 12:00 UTC

RunPlan Plan() {
  RunPlan plan;
  plan.job = "train";
  plan.engine = "oci";
  plan.image = {"mnist:train-cpu", std::string(64, 'a'), {}};
  plan.argv = {"envkit-launch", "--processes", "2", "--", "envkit-train"};
  return plan;
}

}  // namespace

TEST_CASE("a record's name is its second and its job; a second one of that second has another") {
  Scratch scratch;
  const auto first = MakeRecord(scratch.path(), "train", kNoon);
  const auto second = MakeRecord(scratch.path(), "train", kNoon);
  REQUIRE(first);
  REQUIRE(second);
  CHECK(*first == RecordPath(scratch.path(), "train", kNoon));
  CHECK(first->filename() == "20261125T120000Z-train");
  CHECK(second->filename() == "20261125T120000Z-train-2");
  CHECK(ReadFile(scratch.path() / ".envkit/.gitignore").value_or("") == "*\n");
}

TEST_CASE("the summary says how it ended, and latest leads to it") {
  Scratch scratch;
  const auto record = MakeRecord(scratch.path(), "train", kNoon);
  REQUIRE(record);
  Image image;
  image.profile = "train";
  image.variant = "cpu";
  image.lock_digest = std::string(64, 'b');
  image.config_digest = std::string(64, 'a');
  REQUIRE(WriteSummary(*record, Plan(), image, kNoon, std::nullopt, {}, {}));
  const auto read = [&] {
    return nlohmann::json::parse(
        ReadFile(scratch.path() / ".envkit/runs/latest/summary.json").value());
  };
  CHECK(read()["exit_code"].is_null());
  CHECK(read()["wall_s"].is_null());

  RunOutcome outcome;
  outcome.root_cause = {{"rank", 1}};
  outcome.final_metrics = {{"final", true}, {"time", 1.0}, {"test_accuracy", 0.99}};
  REQUIRE(WriteSummary(*record, Plan(), image, kNoon, 7, {1.5, 0.25, 3.0}, outcome));
  const auto summary = read();
  CHECK(summary["exit_code"] == 7);
  CHECK(summary["world_size"] == 2);
  CHECK(summary["started"] == "2026-11-25T12:00:00Z");
  CHECK(summary["wall_s"] == nlohmann::json{{"prepare", 1.5}, {"start", 0.25}, {"job", 3.0}});
  CHECK(summary["root_cause"]["rank"] == 1);
  CHECK(summary["metrics"] == nlohmann::json{{"test_accuracy", 0.99}});

  // A later run takes latest over.
  const auto next = MakeRecord(scratch.path(), "train", kNoon + std::chrono::seconds(1));
  REQUIRE(next);
  REQUIRE(WriteSummary(*next, Plan(), image, kNoon, 0, {}, {}));
  CHECK(fs::read_symlink(scratch.path() / ".envkit/runs/latest") == next->filename());
}

TEST_CASE("a run's files may be absent, or cut off in the middle of a line") {
  Scratch scratch;
  const fs::path record = scratch.path();
  CHECK(ReadOutcome(record).root_cause.is_null());
  CHECK_FALSE(ReadOutcome(record).first_step.has_value());
  REQUIRE(MakeDirectories(record / "log"));
  std::ofstream(record / "log/outcome.json") << R"({"exit_code":1,"root_cause":{"rank":2}})";
  std::ofstream(record / "metrics.jsonl") << R"({"time":12.5,"step":1,"train/loss":2.3}
{"time":13.5,"step":2}
{"time":14,"step":2,"final":true,"test_accuracy":0.5}
{"time":15,"st)";
  const RunOutcome outcome = ReadOutcome(record);
  CHECK(outcome.root_cause["rank"] == 2);
  CHECK(outcome.first_step == 12.5);
  CHECK(outcome.final_metrics["test_accuracy"] == 0.5);
}
