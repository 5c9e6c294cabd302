#include "symptoms/symptoms.h"

#include <doctest/doctest.h>

#include <set>

using namespace envkit;

namespace {

std::string Name(std::string_view text) {
  const auto symptom = Explain(text);
  return symptom ? symptom->name : "";
}

}  // namespace

TEST_CASE("messages as programs print them") {
  const std::pair<const char*, const char*> messages[] = {
      {"docker: Error response from daemon: could not select device driver \"\" with capabilities: "
       "[[gpu]].",
       "docker-no-gpu-hook"},
      {"Error response from daemon: failed to discover GPU vendor from CDI: no known GPU vendor "
       "found",
       "docker-no-cdi"},
      {"Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized",
       "error-802"},
      {"Error 803: system has unsupported display driver / cuda driver combination", "error-803"},
      {"Error 804: forward compatibility was attempted on non supported HW", "error-804"},
      {"Failed to initialize NVML: Driver/library version mismatch", "driver-mismatch"},
      {"Failed to initialize NVML: Unknown Error", "nvml-unknown"},
      {"RuntimeError: CUDA error: no kernel image is available for execution on the device",
       "no-kernel-image"},
      {"torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled "
       "system error",
       "nccl-system"},
      {"NCCL error in: x.cpp:1, invalid usage", "nccl-any"},
      {"[E socket.cpp:1010] bind: Address already in use (errno: 98)", "port-taken"},
      {"RuntimeError: DataLoader worker (pid 77) is killed by signal: Bus error. It is possible "
       "that "
       "dataloader's workers are out of shared memory. Please try to raise your shared memory "
       "limit.",
       "shm-full"},
      {"OSError: [Errno 28] No space left on device", "disk-full"},
      {"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "cuda-oom"},
      {"ImportError: /lib/x.so: version `GLIBCXX_3.4.32' not found (required by y)", "glibcxx"},
      {"undefined symbol: ncclCommWindowRegister", "nccl-symbol"},
      {"RuntimeError: CUDA error: device-side assert triggered", "device-assert"},
      {"AssertionError: Torch not compiled with CUDA enabled", "cpu-build"},
      {"all went well", ""}};
  for (const auto& [text, name] : messages) {
    CAPTURE(text);
    CHECK(Name(text) == name);
  }
}

TEST_CASE("of a whole log the specific message counts") {
  CHECK(
      Name("NCCL WARN unhandled system error\n"
           "misc/shmutils.cc NCCL WARN Error: failed to extend /dev/shm/nccl-abc to 9637892 bytes\n"
           "RuntimeError: NCCL error\n") == "shm-full");
  // A star does not reach over the end of a line.
  CHECK(Name("could not select device driver\n capabilities: [[gpu]]") == "");
  CHECK(Name(std::string(10'000'000, 'x') + "\nAddress already in use") == "port-taken");
}

TEST_CASE("the table is whole") {
  std::set<std::string> names;
  for (const Symptom& symptom : AllSymptoms()) {
    CAPTURE(symptom.name);
    CHECK(names.insert(symptom.name).second);
    CHECK(!symptom.meaning.empty());
    CHECK(!symptom.next.empty());
    REQUIRE(!symptom.patterns.empty());
    for (const std::string& pattern : symptom.patterns) {
      CHECK(pattern.size() >= 8);
      for (const char c : pattern) CHECK_FALSE((c >= 'A' && c <= 'Z'));
    }
  }
}
