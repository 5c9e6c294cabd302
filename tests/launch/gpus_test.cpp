#include "launch/gpus.h"

#include <doctest/doctest.h>

#include "base/scratch.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

void Put(const fs::path& file, const std::string& text) {
  fs::create_directories(file.parent_path());
  REQUIRE(WriteFileAtomic(file, text));
}

// Two GPUs on two NUMA nodes with 4 CPUs each.
struct Machine {
  Scratch root;
  HostFacts facts;
  Machine() {
    const char* pci[] = {"0000:17:00.0", "0000:b3:00.0"};
    const char* uuid[] = {"GPU-aaaa1111-0000", "GPU-bbbb2222-0000"};
    for (int i = 0; i < 2; ++i) {
      Put(root.path() / "proc/driver/nvidia/gpus" / pci[i] / "information",
          std::string("Model: \t\t NVIDIA H100\nGPU UUID: \t ") + uuid[i] + "\nDevice Minor: \t " +
              std::to_string(i) + "\n");
      Put(root.path() / "sys/bus/pci/devices" / pci[i] / "numa_node", std::to_string(i) + "\n");
      Put(root.path() / "sys/bus/pci/devices" / pci[i] / "local_cpulist",
          i == 0 ? "0-3\n" : "4-7\n");
      Put(root.path() / "sys/devices/system/node" / ("node" + std::to_string(i)) / "cpulist",
          i == 0 ? "0-3\n" : "4-7\n");
      facts.device_nodes.push_back(i);
    }
    for (int cpu = 0; cpu < 8; ++cpu) {
      Put(root.path() / "sys/devices/system/cpu" / ("cpu" + std::to_string(cpu)) /
              "topology/physical_package_id",
          cpu < 4 ? "0\n" : "1\n");
    }
  }
  std::string Names(const char* visible) const {
    const std::string text = visible == nullptr ? "" : visible;
    std::string names;
    for (const auto& gpu :
         VisibleGpus(facts, visible == nullptr ? nullptr : &text, root.path(), "no-such-nvml.so")) {
      names += (names.empty() ? "" : " ") + gpu.name + "@" + gpu.pci;
    }
    return names;
  }
};

using Cpus = std::vector<std::vector<int>>;
const std::vector<int> kAll{0, 1, 2, 3, 4, 5, 6, 7};

}  // namespace

TEST_CASE("CUDA_VISIBLE_DEVICES as CUDA reads it") {
  const Machine machine;
  CHECK(machine.Names(nullptr) == "0@0000:17:00.0 1@0000:b3:00.0");
  CHECK(machine.Names("1") == "1@0000:b3:00.0");
  CHECK(machine.Names("1, 0") == "1@0000:b3:00.0 0@0000:17:00.0");
  CHECK(machine.Names("").empty());
  CHECK(machine.Names("-1").empty());
  CHECK(machine.Names("0,5,1") == "0@0000:17:00.0");  // it ends at the first that is none
  CHECK(machine.Names("0,0") == "0@0000:17:00.0");
  CHECK(machine.Names("GPU-bbbb") == "GPU-bbbb@0000:b3:00.0");
  CHECK(machine.Names("GPU-cccc").empty());
  CHECK(machine.Names("MIG-1234,MIG-5678") == "MIG-1234@ MIG-5678@");
}

TEST_CASE("a container has its own GPUs alone, though it sees the others' entries") {
  Machine machine;
  machine.facts.device_nodes = {1};
  CHECK(machine.Names(nullptr) == "0@0000:b3:00.0");
}

TEST_CASE("ranks are bound to the CPUs near their GPU") {
  const Machine machine;
  const auto gpus = VisibleGpus(machine.facts, nullptr, machine.root.path());
  const auto plan = [&](const char* mode, int ranks) {
    return PlanBinding(mode, ranks, gpus, kAll, machine.root.path());
  };
  CHECK(plan("", 2) == Cpus{{0, 1, 2, 3}, {4, 5, 6, 7}});
  CHECK(plan("node", 2) == Cpus{{0, 1, 2, 3}, {4, 5, 6, 7}});
  CHECK(plan("socket", 2) == Cpus{{0, 1, 2, 3}, {4, 5, 6, 7}});
  CHECK(plan("exclusive", 4) == Cpus{{0, 1}, {4, 5}, {2, 3}, {6, 7}});
  CHECK(plan("none", 2) == Cpus{{}, {}});
  // Only what we may use ourselves; where nothing is left, no binding.
  CHECK(PlanBinding("", 2, gpus, {0, 1}, machine.root.path()) == Cpus{{}, {}});
  CHECK(PlanBinding("", 2, gpus, {0, 1, 6}, machine.root.path()) == Cpus{{0, 1}, {6}});
}

TEST_CASE("without GPUs the ranks are spread over the nodes") {
  const Machine machine;
  CHECK(PlanBinding("", 4, {}, kAll, machine.root.path()) ==
        Cpus{{0, 1, 2, 3}, {0, 1, 2, 3}, {4, 5, 6, 7}, {4, 5, 6, 7}});
  const Scratch small;  // one node: nothing to choose
  Put(small.path() / "sys/devices/system/node/node0/cpulist", "0-7\n");
  CHECK(PlanBinding("", 2, {}, kAll, small.path()) == Cpus{{}, {}});
  CHECK(PlanBinding("exclusive", 2, {}, kAll, small.path()) == Cpus{{0, 1, 2, 3}, {4, 5, 6, 7}});
}

TEST_CASE("lists of CPUs") {
  CHECK(ParseCpuList("0-3,8\n") == std::vector<int>{0, 1, 2, 3, 8});
  CHECK(ParseCpuList("5") == std::vector<int>{5});
  CHECK(ParseCpuList("").empty());
}

}  // namespace envkit
