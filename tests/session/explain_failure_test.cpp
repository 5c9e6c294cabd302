#include "session/explain_failure.h"

#include <doctest/doctest.h>

#include <fstream>

#include "base/scratch.h"

using namespace envkit;

namespace {

void WriteLog(const std::filesystem::path& file, const std::string& text) {
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file) << text;
}

}  // namespace

TEST_CASE("a failed run is explained by the first rank's last attempt, and by nothing else") {
  const Scratch record;
  RunOutcome outcome;
  CHECK_FALSE(ExplainFailure(record.path(), outcome));
  outcome.root_cause = {{"rank", 1}};
  CHECK_FALSE(ExplainFailure(record.path(), outcome));
  WriteLog(record / "log/attempt_2/0/stderr.log", "bind: Address already in use\n");
  WriteLog(record / "log/attempt_2/1/stderr.log", "RuntimeError: all is odd\n");
  WriteLog(record / "log/attempt_0/1/stderr.log", "CUDA out of memory\n");
  CHECK_FALSE(ExplainFailure(record.path(), outcome));
  WriteLog(record / "log/attempt_10/1/stderr.log",
           std::string(200'000, '.') + "\nfailed to extend /dev/shm/nccl-x to 33 bytes\n");
  auto symptom = ExplainFailure(record.path(), outcome);
  REQUIRE(symptom);
  CHECK(symptom->name == "shm-full");
  WriteLog(record / "log/attempt_10/1/stderr.log", "");
  WriteLog(record / "log/attempt_10/1/stdout.log", "bind: Address already in use\n");
  symptom = ExplainFailure(record.path(), outcome);
  REQUIRE(symptom);
  CHECK(symptom->name == "port-taken");
  outcome.root_cause["symptom"] = "port-taken";
  CHECK_FALSE(ExplainFailure(record.path(), outcome));
}
