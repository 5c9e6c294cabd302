#include "matrix/judge.h"

#include "matrix/data.h"

using namespace envkit;

namespace {

Machine On(const std::string& driver, const std::string& gpu = "") {
  Machine machine;
  if (!driver.empty()) machine.driver = driver;
  if (!gpu.empty()) machine.gpu = ParseCapability(gpu);
  return machine;
}

const TorchBuild& Build(const Matrix& matrix, const std::string& torch, const std::string& cuda) {
  for (const TorchBuild& build : matrix.builds) {
    if (build.torch == torch && build.cuda == cuda) return build;
  }
  FAIL("no such build");
  return matrix.builds.front();
}

std::vector<std::string> Known(const std::string& torch, const std::string& cuda,
                               const Machine& machine, std::string_view architecture = "x86_64") {
  std::vector<std::string> ids;
  for (const KnownBad* bad :
       KnownProblems(Own(), Build(Own(), torch, cuda), machine, architecture)) {
    ids.push_back(bad->id);
  }
  return ids;
}

bool Has(const std::vector<std::string>& ids, const std::string& id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

TEST_CASE("the floor of each CUDA generation, to the last digit") {
  const auto runs = [](const char* cuda, const char* driver) {
    return !DriverProblem(Own(), cuda, On(driver));
  };
  CHECK(runs("11.8", "450.80.02"));
  CHECK_FALSE(runs("11.8", "450.80.01"));
  CHECK(runs("12.8", "525.60.13"));
  CHECK_FALSE(runs("12.8", "525.60.12"));
  CHECK(runs("13.2", "580.65.06"));
  CHECK(runs("13.2", "580.00"));
  CHECK_FALSE(runs("13.0", "575.57.08"));
  CHECK(runs("12.4", "610.43.02"));  // newer drivers run older CUDA
  CHECK(*DriverProblem(Own(), "13.2", On("550.54.14")) ==
        "CUDA 13.2 needs NVIDIA driver 580 or newer, and this is 550.54.14");
}

TEST_CASE("a branch alone stands for its newest driver") {
  CHECK_FALSE(DriverProblem(Own(), "12.8", On("525")));
  CHECK(DriverProblem(Own(), "12.8", On("520")));
}

TEST_CASE("no driver, and a CUDA that the matrix does not know, are no problem") {
  CHECK_FALSE(DriverProblem(Own(), "13.2", {}));
  CHECK_FALSE(DriverProblem(Own(), "14.0", On("550.54.14")));
}

TEST_CASE("machine code runs on the same major and an equal or higher minor") {
  const TorchBuild& build = Build(Own(), "2.15.0", "13.2");  // 7.5 8.0 8.6 9.0 10.0 12.0
  const auto runs = [&](const char* gpu) { return !GpuProblem(Own(), build, On("", gpu)); };
  for (const char* gpu : {"7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "12.0", "12.1"})
    CHECK(runs(gpu));
  for (const char* gpu : {"5.0", "7.0", "7.2", "11.0", "13.0"}) CHECK_FALSE(runs(gpu));
  CHECK(*GpuProblem(Own(), build, On("", "7.0")) ==
        "it has no code for compute capability 7.0 (Volta): it was built for 7.5 8.0 8.6 9.0 10.0 "
        "12.0");
}

TEST_CASE("PTX is compiled upward, by a driver as new as its toolkit") {
  const Matrix matrix = Small();
  const TorchBuild& build = matrix.builds.back();  // CUDA 13.0: 9.0, 12.0+PTX
  CHECK_FALSE(GpuProblem(matrix, build, On("580.65.06", "13.0")));
  CHECK_FALSE(GpuProblem(matrix, build, On("", "13.0")));
  CHECK(*GpuProblem(matrix, build, On("580.00", "13.0")) ==
        "for compute capability 13.0 it has PTX alone, which needs driver 580.65.06 or newer, and "
        "this is 580.00");
  CHECK(*GpuProblem(matrix, build, On("", "8.6")) ==
        "it has no code for compute capability 8.6: it was built for 9.0 12.0+PTX");
}

TEST_CASE("GPU code that nobody knows speaks against nothing") {
  const TorchBuild& build = Build(Own(), "2.8.0", "12.9");
  CHECK_FALSE(build.sass);
  CHECK_FALSE(GpuProblem(Own(), build, On("", "12.0")));
}

TEST_CASE("GPUs and drivers that do not know each other") {
  CHECK(*MachineProblem(Own(), On("550.54.14", "12.0")) ==
        "Blackwell GPUs need driver branch 570 or newer, and this is 550.54.14");
  CHECK(*MachineProblem(Own(), On("595.45.04", "7.0")) ==
        "driver branch 580 is the last for Volta GPUs, and this is 595.45.04");
  CHECK_FALSE(MachineProblem(Own(), On("570.26", "12.0")));
  CHECK_FALSE(MachineProblem(Own(), On("580.95.05", "7.0")));
  CHECK_FALSE(MachineProblem(Own(), On("550.54.14", "13.0")));
}

TEST_CASE("driver 550 gets torch 2.10 with CUDA 12.8 from the default index") {
  const TorchBuild* build = NewestServed(Own(), On("550.54.14"));
  REQUIRE(build != nullptr);
  CHECK(build->torch == "2.10.0");
  CHECK(build->cuda == "12.8");
  CHECK(NewestServed(Own(), On("535.183.01"))->torch == "2.10.0");
  CHECK(NewestServed(Own(), On("580.95.05"))->torch == "2.15.0");
  CHECK(NewestServed(Own(), {})->torch == "2.15.0");
  CHECK(NewestServed(Own(), On("450.80.02")) == nullptr);
  CHECK(NewestServed(Own(), On("550.54.14"), "2.15") == nullptr);
  CHECK(NewestServed(Own(), On("550.54.14"), "2.9")->torch == "2.9.1");
  CHECK(NewestServed(Own(), {}, "", "3.9")->torch == "2.8.0");
  CHECK(NewestServed(Own(), On("580.95.05", "7.0"))->torch == "2.10.0");
  CHECK(NewestServed(Own(), On("580.95.05", "6.1"))->torch == "2.7.1");
}

TEST_CASE("all that runs, newest first") {
  const auto builds = BuildsThatRun(Own(), On("550.54.14"));
  REQUIRE_FALSE(builds.empty());
  CHECK(builds.front()->torch == "2.14.1");
  CHECK(builds.front()->cuda == "12.6");
  for (const TorchBuild* build : builds) CHECK(MajorOf(build->cuda) < 13);
  CHECK(BuildsThatRun(Own(), On("400.1")).empty());
  CHECK(BuildsThatRun(Own(), {}).size() == Own().builds.size());
}

TEST_CASE("known failures by version, GPU, driver and architecture") {
  CHECK(Has(Known("2.6.0", "12.4", On("", "10.0")), "nccl-blackwell"));
  CHECK_FALSE(Has(Known("2.6.0", "12.4", On("", "9.0")), "nccl-blackwell"));
  CHECK_FALSE(Has(Known("2.6.0", "12.4", {}), "nccl-blackwell"));
  CHECK_FALSE(Has(Known("2.8.0", "12.8", On("", "10.0")), "nccl-blackwell"));
  CHECK(Has(Known("2.7.0", "12.6", {}), "torch-device-id-hang"));
  CHECK_FALSE(Has(Known("2.7.1", "12.6", {}), "torch-device-id-hang"));
  CHECK(Has(Known("2.15.0", "13.2", On("560.28.03")), "driver-560-p2p"));
  CHECK_FALSE(Has(Known("2.15.0", "13.2", On("570.26")), "driver-560-p2p"));
  CHECK(Has(Known("2.12.0", "12.6", {}, "aarch64"), "nccl-aarch64") == false);  // 2.29.3
  CHECK(Has(Known("2.11.0", "13.0", {}, "aarch64"), "nccl-aarch64"));
  CHECK_FALSE(Has(Known("2.11.0", "13.0", {}), "nccl-aarch64"));
  CHECK(Has(Known("2.12.0", "13.0", On("", "7.0")), "cudnn-turing"));
}

TEST_CASE("forward compatibility is per branch and CUDA generation") {
  const ForwardCompatibility* forward = ForwardFor(Own(), "13.0", On("550.54.14"));
  REQUIRE(forward != nullptr);
  CHECK(forward->cuda == "13.1");
  CHECK(ForwardFor(Own(), "13.2", On("550.54.14")) == nullptr);
  CHECK(ForwardFor(Own(), "13.0", On("560.28.03")) == nullptr);
  CHECK(ForwardFor(Own(), "13.0", {}) == nullptr);
}

TEST_CASE("what is no driver version") {
  CHECK(*ParseDriver("550.54.14") == "550.54.14");
  CHECK(*ParseDriver("550") == "550");
  for (const char* text : {"", "abc", "550.", "550.54-beta", "N/A", "5 50", "999999999999"}) {
    CAPTURE(text);
    const auto driver = ParseDriver(text);
    REQUIRE_FALSE(driver);
    CHECK(driver.error().code == ExitCode::kUsage);
  }
  CHECK(ParseDriver("N/A").error().Text() ==
        "error: \"N/A\" is not a driver version\n"
        "  It looks like 550.54.14, or 550 for the newest of that branch; nvidia-smi shows it as "
        "\"Driver Version\".\n");
}
