#include <doctest/doctest.h>

#include <chrono>

#include "base/process.h"
#include "base/scratch.h"
#include "doctor/facts_json.h"
#include "doctor/tree.h"

using namespace envkit;
using namespace envkit::doctor;

namespace {

struct Answer {
  std::string report;
  NvmlFacts nvml;
  double seconds = 0;
};

Answer Ask(const std::string& library, const std::string& scenario) {
  static const Scratch tree;
  static const bool made = (MakeTree("eight-gpus", tree.path()), true);
  REQUIRE(made);
  const auto begin = std::chrono::steady_clock::now();
  const auto done =
      RunProcess({.argv = {ENVKIT_TEST_PROBE, tree.path().string()},
                  .env = {{"LD_LIBRARY_PATH", std::string(ENVKIT_TEST_NVML) + "/" + library},
                          {"MOCK_NVML", scenario}}});
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  REQUIRE(done);
  REQUIRE(done->exit_code == 0);
  const std::size_t mark = done->out.find("--\n");
  REQUIRE(mark != std::string::npos);
  Facts facts;
  ReadSection("nvml", nlohmann::json::parse(done->out.substr(mark + 3)), facts);
  return {done->out.substr(0, mark), facts.nvml, took.count()};
}

bool Has(const std::string& text, const char* words) {
  return text.find(words) != std::string::npos;
}

}  // namespace

TEST_CASE("eight GPUs, all of what NVML tells") {
  const Answer answer = Ask("whole", "eight");
  CHECK(answer.nvml.unknown == "");
  CHECK(answer.nvml.step == "");
  CHECK(*answer.nvml.cuda_version == 13020);
  REQUIRE(answer.nvml.gpus.size() == 8);
  const Gpu& gpu = answer.nvml.gpus[7];
  CHECK(gpu.name == "NVIDIA H100 80GB HBM3");
  CHECK(gpu.pci == "0000:17:00.0");
  CHECK(gpu.compute_capability == "9.0");
  CHECK(gpu.memory_total == 85899345920);
  CHECK(gpu.nvlinks.size() == 18);
  CHECK(gpu.topology.size() == 8);
  CHECK(gpu.recovery_action == 0);
  CHECK(gpu.uuid == "GPU-00000000-0000-0000-0000-000000000007");
  CHECK(
      Has(answer.report, "8 × NVIDIA H100 80GB HBM3, 80 GiB · driver 595.45.04 · CUDA up to 13.2"));
  CHECK(Has(answer.report, "all clear"));
}

TEST_CASE("a library that hangs costs its own section, and two seconds") {
  const Answer answer = Ask("whole", "hang");
  CHECK(answer.nvml.unknown == "no answer within 2 s");
  CHECK(answer.nvml.step == "nvmlInit");
  CHECK(answer.seconds > 1.9);
  CHECK(answer.seconds < 3);
  CHECK(Has(answer.report, "FAIL  H24  The NVIDIA driver does not answer"));
}

TEST_CASE("one GPU that hangs: the others before it are known") {
  const Answer answer = Ask("whole", "hang-at-5");
  CHECK(answer.nvml.unknown == "no answer within 2 s");
  CHECK(answer.nvml.step == "asking for GPU 5");
  CHECK(answer.nvml.gpus.size() == 5);
  CHECK(Has(answer.report, "asking for GPU 5"));
}

TEST_CASE("a library that crashes, or ends the process") {
  CHECK(Ask("whole", "crash").nvml.unknown == "the probe crashed: signal 11 (SIGSEGV)");
  const Answer answer = Ask("whole", "exit");
  CHECK(answer.nvml.unknown == "the probe ended with exit code 7");
  CHECK(answer.nvml.step == "nvmlInit");
}

TEST_CASE("an old library lacks functions: they are named, the rest is used") {
  const Answer answer = Ask("old", "eight");
  REQUIRE(answer.nvml.gpus.size() == 8);
  CHECK(answer.nvml.gpus[0].name == "NVIDIA H100 80GB HBM3");
  CHECK(answer.nvml.gpus[0].compute_capability == "");
  CHECK(answer.nvml.cuda_version.unknown == "function not found (13)");
  CHECK(answer.nvml.missing_functions.size() > 10);
  CHECK_FALSE(Has(answer.report, "FAIL"));
}

TEST_CASE("a lost GPU, MIG, bad memory rows, a GPU in use") {
  const Answer lost = Ask("whole", "lost");
  REQUIRE(lost.nvml.gpus.size() == 8);
  CHECK(lost.nvml.gpus[3].error == "GPU is lost (15)");
  CHECK(lost.nvml.gpus[4].error == "");
  CHECK(Has(lost.report, "FAIL  H11  A GPU that is on PCI does not answer"));
  const Answer mig = Ask("whole", "mig");
  CHECK(mig.nvml.gpus[0].mig_devices ==
        std::vector<std::string>{"MIG-00000000-0000-0000-0000-000000001000",
                                 "MIG-00000000-0000-0000-0000-000000001001"});
  CHECK(Has(mig.report, "NOTE  H20"));
  CHECK(Has(Ask("whole", "rows").report,
            "FAIL  H13  GPU 2 (NVIDIA H100 80GB HBM3) has memory errors"));
  CHECK(Has(Ask("whole", "busy").report, "pid 4000000, 1 GiB"));
}

TEST_CASE("a library without a driver, and one without GPUs") {
  const Answer answer = Ask("whole", "no-driver");
  CHECK(*answer.nvml.init == 9);
  CHECK(answer.nvml.gpus.empty());
  CHECK(Has(answer.report, "FAIL  H24  NVML does not start (code 9)"));
  CHECK(Has(Ask("whole", "none").report, "FAIL  H11"));
}
