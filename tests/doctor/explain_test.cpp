#include <doctest/doctest.h>

#include "doctor/report.h"

using namespace envkit;
using namespace envkit::doctor;

namespace {

std::string Explained(const std::string& text) {
  const auto answer = ExplainText(text);
  return answer ? *answer : answer.error().Text();
}

}  // namespace

TEST_CASE("a check's whole story, by its id in any case of letters") {
  CHECK(Explained("h03") ==
        "H03  kernel module and driver library agree\n"
        "     The loaded module's version against that of the libnvidia-ml.so.1 that programs get. "
        "Where they\n"
        "     differ: \"Driver/library version mismatch\" (NVML 18), \"NVRM: API mismatch\" in the "
        "kernel log.\n"
        "     Not reported where one of these explains it: H02\n"
        "     Messages: \"driver/library version mismatch\", \"nvrm: api mismatch\"\n"
        "     On this machine:  envkit doctor -v\n");
}

TEST_CASE("a pasted message gives its meaning and the check that looks for its cause") {
  CHECK(Explained("docker: Error response from daemon: could not select device driver \"\" with "
                  "capabilities: [[gpu]].") ==
        "means  Docker found nothing that gives GPUs to containers: the NVIDIA Container Toolkit "
        "is not\n"
        "       installed, or was installed after the daemon started.\n"
        "do     Install nvidia-container-toolkit, then: sudo systemctl restart docker\n"
        "\n"
        "D03  docker --gpus works\n"
        "     Up to Docker 28 the daemon looks for nvidia-container-runtime-hook when it starts: "
        "\"could not\n"
        "     select device driver\" without. From 29 on it takes CDI: \"failed to discover GPU "
        "vendor from\n"
        "     CDI\".\n"
        "     Not reported where one of these explains it: D01 H02 H03 D02\n"
        "     Messages: \"could not select device driver * capabilities: [[gpu]]\", \"failed to "
        "discover gpu\n"
        "               vendor from cdi\", \"no known gpu vendor found\"\n"
        "     On this machine:  envkit doctor -v\n");
}

TEST_CASE("what nobody knows is said, with the way on") {
  CHECK(Explained("H99").starts_with(
      "error: there is no check \"H99\"\n  The checks are H01 H02 H03"));
  CHECK(Explained("something odd happened") ==
        "error: no check knows this message\n"
        "  Paste the line that names the error, or look at the machine:  envkit doctor\n");
}
