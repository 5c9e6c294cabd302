#include "launch/gpu_health.h"

#include <doctest/doctest.h>

#include <cstdlib>

namespace envkit {
namespace {

// The stand-in of tests/doctor has eight GPUs, from 0000:10:00.0 on.
std::vector<VisibleGpu> Gpus() {
  return {{"0", "", "0000:10:00.0"},
          {"1", "", "0000:11:00.0"},
          {"2", "", "0000:12:00.0"},
          {"3", "", "0000:13:00.0"}};
}

GpuHealth Look(const char* scenario, const char* kind = "whole") {
  setenv("MOCK_NVML", scenario, 1);
  return LookAtGpus(Gpus(), std::chrono::milliseconds(500),
                    std::string(ENVKIT_TEST_NVML "/") + kind + "/libnvidia-ml.so.1");
}

using Texts = std::vector<std::string>;

}  // namespace

TEST_CASE("busy and broken GPUs are named before anything starts") {
  CHECK(Look("eight").notes.empty());
  CHECK(Look("eight").broken.empty());
  CHECK(Look("busy").notes ==
        Texts{"GPU 1 (0000:11:00.0) is in use by a process that is not visible from here (pid "
              "4000000), 1 GiB"});
  CHECK(Look("busy").broken.empty());
  CHECK(Look("exclusive").broken ==
        Texts{"GPU 1 (0000:11:00.0) takes one program only, and has a process that is not visible "
              "from here (pid 4000000), 1 GiB"});
  CHECK(Look("lost").broken ==
        Texts{"GPU 3 (0000:13:00.0) is lost: it does not answer on the bus"});
  CHECK(Look("prohibited").broken ==
        Texts{"GPU 0 (0000:10:00.0) takes no programs: its compute mode is Prohibited"});
  CHECK(Look("rows").notes == Texts{"GPU 2 (0000:12:00.0) has bad memory until it is reset"});
  CHECK(Look("versions").broken ==
        Texts{"NVIDIA's kernel module and its libraries are of different versions: reload the "
              "module or reboot"});
}

TEST_CASE("a driver that hangs, crashes or is old does not keep the launcher") {
  CHECK(Look("hang").notes ==
        Texts{"NVIDIA's management library has not answered for 500 ms: envkit doctor says more"});
  CHECK(Look("crash").notes.empty());
  CHECK(Look("no-driver").notes.empty());
  CHECK(Look("busy", "old").notes.empty());
  const GpuHealth none = LookAtGpus(Gpus(), std::chrono::milliseconds(500), "no-such-nvml.so");
  CHECK(none.notes.empty());
  CHECK(none.broken.empty());
}

}  // namespace envkit
