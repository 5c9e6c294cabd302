// A run's report: one file, nothing of it from elsewhere, whatever the record holds.
#include "report.h"

#include "helpers.h"

namespace envkit {
namespace {

TEST_CASE("report: curves, time split, environment and configuration in one file") {
  const Scratch scratch;
  const auto run = scratch / "20261125T120000Z-train";
  CHECK(FailureText([&] { RunReport(run); }) == "there is no " + (run / "metrics.jsonl").string());
  CHECK(FailureCode([&] { RunReport(run); }) == 2);
  WriteFile(
      run / "metrics.jsonl",
      R"({"time":1,"step":1,"epoch":1,"train/loss":2.5,"train/lr":0.001,"time/data":0.25,"time/forward":0.5}
{"time":2,"step":10,"epoch":1,"train/loss":0.5,"train/lr":0.002,"time/data":0.25,"time/forward":0.5}
{"time":3,"step":10,"epoch":1,"eval/accuracy":0.9}
{"time":4,"step":10,"final":true,"test_accuracy":0.9,"model":"checkpoints/final/model.safetensors"}
{"time":5,"st)");
  WriteFile(run / "summary.json",
            R"({"job":"train","lock_digest":"sha256:<abc>","wall_s":{"job":9}})");
  WriteFile(run / "train.toml", "seed = 1 # <&>\n");
  const std::string page = RunReport(run);
  CHECK(page.starts_with("<!DOCTYPE html>\n"));
  CHECK(Contains(page, "<h1>20261125T120000Z-train</h1>"));
  CHECK(Contains(page, R"(aria-label="train/loss")"));
  CHECK(Contains(page, R"(aria-label="eval/accuracy")"));
  CHECK(Contains(page, "data 25.0 %"));
  CHECK(Contains(page, "forward 50.0 %"));
  CHECK(Contains(page, "<tr><th>test_accuracy</th><td>0.9</td></tr>"));
  CHECK(Contains(page, "<tr><th>lock_digest</th><td>sha256:&lt;abc&gt;</td></tr>"));
  CHECK(Contains(page, "<tr><th>wall_s.job</th><td>9</td></tr>"));
  CHECK(Contains(page, "seed = 1 # &lt;&amp;&gt;"));
  for (const char* outside : {"http:", "https:", "src=", "<script", "@import", "url("})
    CHECK(!Contains(page, outside));

  // A record of nothing, and hostile ones.
  WriteFile(run / "metrics.jsonl", "");
  std::filesystem::remove(run / "summary.json");
  CHECK(Contains(RunReport(run), "<h2>Curves</h2>"));
  std::mt19937 random(1);
  const std::string good = R"({"time":1,"step":1,"train/loss":2.5,"a/b":1e300}
{"step":2,"train/loss":-1,"a/b":0}
)";
  for (int round = 0; round < 500; ++round) {
    WriteFile(run / "metrics.jsonl", Mutated(good, random));
    CHECK_NOTHROW(RunReport(run));
  }
}

}  // namespace
}  // namespace envkit
