#include "session/check_probe.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "session/driver.h"
#include "session/verify.h"

namespace envkit {
namespace {

using nlohmann::json;

json Rank(int rank, int ranks, const std::string& device) {
  json line = {
      {"envkit_probe", 1},
      {"rank", rank},
      {"ranks", ranks},
      {"device", device},
      {"gpu", nullptr},
      {"transport", device == "cpu" ? "gloo" : "nccl"},
      {"allreduce",
       {{"exact", true}, {"bytes", 16777216}, {"seconds", 0.01}, {"bus_bytes_per_second", 1.5e9}}},
      {"training", {{"exact", true}, {"transport", "shared memory"}}}};
  if (device != "cpu") {
    line["gpu"] = {{"pci", "0000:1" + std::to_string(rank) + ":00.0"}, {"name", "NVIDIA H100"}};
  }
  if (rank == 0) {
    line["cuda_half"] = device == "cpu" ? json() : json("loaded");
    line["versions"] = {{"torch", "2.15.0"}, {"cuda_runtime", "13.2"}};
    if (device != "cpu") {
      line["versions"].update({{"cudnn", "9.26.0"}, {"nccl", "2.30.7"}, {"cuda_driver", "13.2"}});
    }
    line["mapped"] = {"/lib/libc.so.6"};
  }
  return line;
}

ProbeOutput Output(std::vector<json> ranks, int exit_code = 0) {
  std::string text = "a warning of some library\n";
  // Rank 0 is raw, the others come with their number in front.
  for (const json& rank : ranks) {
    nlohmann::ordered_json ordered = {{"envkit_probe", 1}};
    ordered.update(nlohmann::ordered_json::parse(rank.dump()));
    text += (rank["rank"] == 0 ? "" : "[" + rank["rank"].dump() + "] ") + ordered.dump() + "\n";
  }
  return ParseProbe(exit_code, text);
}

Lock TheLock() {
  Lock lock;
  lock.torch = "2.15.0";
  lock.cuda = "13.2";
  lock.wheels = {{"nvidia-cudnn-cu13", "9.26.0.51", "", "", 0},
                 {"nvidia-nccl-cu13", "2.30.7", "", "", 0}};
  return lock;
}

const Check& Find(const std::vector<Check>& checks, const std::string& id) {
  const auto found =
      std::find_if(checks.begin(), checks.end(), [&](const Check& one) { return one.id == id; });
  REQUIRE_MESSAGE(found != checks.end(), id);
  return *found;
}

VerifyReport Report(std::vector<Check> checks, std::vector<std::string> gpus = {}) {
  VerifyReport report;
  report.image.name = "mnist";
  report.image.profile = "train";
  report.image.variant = "cpu";
  report.image.config_digest = std::string(64, 'a');
  report.checks = std::move(checks);
  report.gpus = std::move(gpus);
  return report;
}

}  // namespace

TEST_CASE("two ranks on CPUs pass, and no GPU counts as checked") {
  const Lock lock = TheLock();
  const ProbeOutput probe = Output({Rank(1, 2, "cpu"), Rank(0, 2, "cpu")});
  REQUIRE(probe.ranks.size() == 2);
  CHECK(probe.ranks[0]["rank"] == 0);
  const auto checks = JudgeProbe(probe, {"cpu", 2, false, &lock});
  CHECK(Find(checks, "libraries.versions").verdict == Verdict::kPass);
  CHECK(Find(checks, "libraries.cuda").verdict == Verdict::kSkipped);
  CHECK(Find(checks, "smoke.allreduce").what == "sums over 2 ranks are exact, 1.5 GB/s over gloo");
  CHECK(Find(checks, "smoke.training").verdict == Verdict::kPass);
  CHECK(Find(checks, "smoke.gpus").verdict == Verdict::kSkipped);
  CHECK(Find(checks, "smoke.gpus").what == "no GPU was checked");
  const VerifyReport report = Report(checks);
  CHECK(VerdictOf(report) == "cpu-only-pass");
  CHECK(VerifyToJson(report)["gpu_checked"] == false);
  CHECK(ExitCodeOf(report) == 0);
}

TEST_CASE("a pass on GPUs is another word") {
  const Lock lock = TheLock();
  const ProbeOutput probe = Output({Rank(0, 2, "cuda:0"), Rank(1, 2, "cuda:1")});
  const auto checks = JudgeProbe(probe, {"cuda", 2, true, &lock});
  for (const Check& check : checks) {
    CAPTURE(check.id);
    CHECK(check.verdict == Verdict::kPass);
  }
  CHECK(GpusOf(probe) ==
        std::vector<std::string>{"NVIDIA H100 (0000:10:00.0)", "NVIDIA H100 (0000:11:00.0)"});
  const VerifyReport report = Report(checks, GpusOf(probe));
  CHECK(VerdictOf(report) == "gpu-pass");
  CHECK(VerifyToJson(report)["gpu_checked"] == true);
}

TEST_CASE("ranks that share a GPU, or that have none, fail where GPUs were to be checked") {
  const ProbeExpectation expected = {"cuda", 2, true, nullptr};
  json second = Rank(1, 2, "cuda:0");
  second["gpu"]["pci"] = "0000:10:00.0";
  auto shared = JudgeProbe(Output({Rank(0, 2, "cuda:0"), second}), expected);
  CHECK(Find(shared, "smoke.gpus").verdict == Verdict::kFail);
  CHECK(Find(shared, "smoke.gpus").evidence.back() == "2 ranks had 1 GPUs between them");
  auto none = JudgeProbe(Output({Rank(0, 2, "cpu"), Rank(1, 2, "cpu")}), expected);
  CHECK(Find(none, "smoke.gpus").verdict == Verdict::kFail);
  CHECK(Find(none, "libraries.cuda").verdict == Verdict::kFail);
  CHECK(Find(none, "libraries.versions").verdict == Verdict::kFail);  // no NCCL, no cuDNN
}

TEST_CASE("wrong sums name the rank, and wrong versions the library") {
  Lock lock = TheLock();
  json second = Rank(1, 2, "cpu");
  second["allreduce"]["exact"] = false;
  auto checks = JudgeProbe(Output({Rank(0, 2, "cpu"), second}, 1), {"cpu", 2, false, &lock});
  CHECK(Find(checks, "smoke.allreduce").verdict == Verdict::kFail);
  CHECK(Find(checks, "smoke.allreduce").evidence.front() ==
        "rank 1 got another result than the known one");
  CHECK(VerdictOf(Report(checks)) == "fail");
  CHECK(ExitCodeOf(Report(checks)) == 1);
  lock.torch = "2.15.1";
  checks = JudgeProbe(Output({Rank(0, 2, "cpu"), Rank(1, 2, "cpu")}), {"cpu", 2, false, &lock});
  CHECK(Find(checks, "libraries.versions").verdict == Verdict::kFail);
  CHECK(Find(checks, "libraries.versions").evidence.front() ==
        "torch says 2.15.0, locked is 2.15.1");
}

TEST_CASE("a probe that does not answer fails; one that an old image lacks is incomplete") {
  const ProbeExpectation expected = {"cpu", 2, false, nullptr};
  auto silent = JudgeProbe(ParseProbe(1, "error: rank 1 cannot reach rank 0\n"), expected);
  REQUIRE(silent.size() == 1);
  CHECK(silent[0].verdict == Verdict::kFail);
  CHECK(silent[0].evidence == std::vector<std::string>{"exit code 1; 0 of 2 ranks answered",
                                                       "error: rank 1 cannot reach rank 0"});
  auto half = JudgeProbe(Output({Rank(0, 2, "cpu")}, 137), expected);
  CHECK(half[0].evidence[0] == "exit code 137; 1 of 2 ranks answered");
  const auto broken = JudgeProbe(
      ParseProbe(127, "envkit-probe: error while loading shared libraries: libc10.so: …\n"),
      expected);
  CHECK(Find(broken, "smoke.run").verdict == Verdict::kFail);
  auto old = JudgeProbe(ParseProbe(127, ""), expected);
  CHECK(VerdictOf(Report(old)) == "incomplete");
  CHECK(ExitCodeOf(Report(old)) == 3);
  CHECK(VerdictOf(Report({})) == "incomplete");  // nothing looked at is no pass
}

TEST_CASE("drivers and CUDA, by the matrix that lock and run ask") {
  const Matrix matrix = *OwnMatrix();
  Lock lock;
  Machine machine;
  const auto check = [&](const std::string& cuda, const std::string& variant = "cuda") {
    lock.cuda = cuda;
    lock.python = "3.13";
    return CheckDriver(lock, variant, machine, matrix);
  };
  CHECK(check("13.2").verdict == Verdict::kSkipped);
  machine.driver = "570.86.15";
  CHECK(check("13.2", "cpu").verdict == Verdict::kSkipped);
  CHECK(check("13.2").verdict == Verdict::kFail);
  CHECK(check("13.2").evidence[0] == "driver 570.86.15, CUDA 13.2 needs 580 or newer");
  CHECK(check("13.2").next ==
        "Take torch = \"2.10\" with CUDA 12.8, the newest of the default index that driver "
        "570.86.15 runs,\nor update the driver to 580 or newer.\n"
        "A change of envkit.toml needs: envkit lock.");
  CHECK(check("12.8").verdict == Verdict::kPass);
  CHECK(check("99.0").verdict == Verdict::kSkipped);
  CHECK(check("99.0").evidence[0] == "the version matrix does not know CUDA 99.0");
  machine.driver = "525.60.11";
  CHECK(check("12.6").verdict == Verdict::kFail);
  machine.driver = "580.95.05";
  CHECK(check("13.2").verdict == Verdict::kPass);
}

}  // namespace envkit
