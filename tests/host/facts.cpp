#include "host/facts.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>

using envkit::GpuState;
using envkit::GpuVerdict;
using envkit::HostFacts;
using envkit::JudgeGpus;
using envkit::ProbeHost;

namespace {

HostFacts Probe(const char* name) {
  const char* source = std::getenv("ENVKIT_SOURCE_DIR");
  REQUIRE(source != nullptr);
  const auto tree = std::filesystem::path(source) / "tests/fixtures/hosts" / name;
  REQUIRE(std::filesystem::is_directory(tree));
  return ProbeHost(tree);
}

}  // namespace

TEST_CASE("a machine without an NVIDIA GPU") {
  const HostFacts facts = Probe("none");
  CHECK(facts.pci_gpus.empty());
  CHECK_FALSE(facts.kernel_module);
  CHECK(facts.cpus == 8);
  CHECK(facts.numa_nodes == 1);
  CHECK(facts.memory_bytes == 16384000ull * 1024);
  CHECK(facts.shm_bytes == 8192000ull * 1024);
  CHECK(facts.may_raise_limits);
  CHECK(facts.hostname == "laptop");
  CHECK(facts.kernel == "6.1.0-25-amd64");
  CHECK(JudgeGpus(facts).state == GpuState::kNone);
}

TEST_CASE("a GPU that can be used, and its audio function that is none") {
  const HostFacts facts = Probe("one-gpu-ok");
  REQUIRE(facts.pci_gpus.size() == 1);
  CHECK(facts.pci_gpus[0].address == "0000:01:00.0");
  CHECK(facts.pci_gpus[0].numa_node == -1);
  CHECK(facts.kernel_module == "535.183.01");
  CHECK(facts.device_nodes == std::vector<int>{0});
  CHECK(facts.control_node);
  CHECK(facts.uvm_node);
  CHECK_FALSE(facts.shm_bytes);
  const GpuVerdict verdict = JudgeGpus(facts);
  CHECK(verdict.state == GpuState::kUsable);
  CHECK(verdict.why.empty());
}

TEST_CASE("a server: open module, NVSwitch, two nodes with CPUs and one without") {
  const HostFacts facts = Probe("two-gpus-two-nodes");
  REQUIRE(facts.pci_gpus.size() == 2);
  CHECK(facts.pci_gpus[0].address == "0000:17:00.0");
  CHECK(facts.pci_gpus[0].numa_node == 0);
  CHECK(facts.pci_gpus[1].numa_node == 1);
  CHECK(facts.kernel_module == "580.95.05");
  CHECK(facts.device_nodes == std::vector<int>{0, 2, 10});
  CHECK(facts.cpus == 16);
  CHECK(facts.numa_nodes == 2);
  CHECK(facts.memory_bytes == 2113929216ull * 1024);
  CHECK(JudgeGpus(facts).state == GpuState::kUsable);
}

TEST_CASE("a GPU that is there and cannot be used says why and what to do") {
  GpuVerdict verdict = JudgeGpus(Probe("gpu-no-driver"));
  CHECK(verdict.state == GpuState::kUnusable);
  CHECK(verdict.why ==
        "an NVIDIA GPU is on PCI (0000:01:00.0), but NVIDIA's kernel module is not loaded");
  CHECK(
      verdict.next ==
      "sudo modprobe nvidia\n"
      "if that fails: install the driver and the headers of kernel 6.1.0-25-amd64, then sudo dkms "
      "autoinstall (dkms status);\n"
      "with Secure Boot the module must be signed (mokutil --sb-state)");

  verdict = JudgeGpus(Probe("gpu-nouveau"));
  CHECK(verdict.state == GpuState::kUnusable);
  CHECK(
      verdict.why ==
      "an NVIDIA GPU is on PCI (0000:01:00.0), but the nouveau module holds it and NVIDIA's kernel "
      "module is not loaded");
  CHECK(verdict.next ==
        "install the NVIDIA driver, blacklist nouveau, rebuild the initramfs, reboot");

  verdict = JudgeGpus(Probe("gpu-no-device-nodes"));
  CHECK(verdict.state == GpuState::kUnusable);
  CHECK(
      verdict.why ==
      "the NVIDIA driver is loaded, but /dev/nvidiactl, /dev/nvidia0, /dev/nvidia-uvm are missing");
  CHECK(verdict.next ==
        "sudo nvidia-modprobe -u -c=0\n"
        "in a container: start it with its GPUs (docker run --gpus all)");

  verdict = JudgeGpus(Probe("gpu-no-uvm"));
  CHECK(verdict.state == GpuState::kUnusable);
  CHECK(verdict.why == "the NVIDIA driver is loaded, but /dev/nvidia-uvm is missing");

  HostFacts facts = Probe("one-gpu-ok");
  facts.closed_nodes = {"/dev/nvidia0", "/dev/nvidiactl"};
  verdict = JudgeGpus(facts);
  CHECK(verdict.state == GpuState::kUnusable);
  CHECK(verdict.why == "this user may not open /dev/nvidia0, /dev/nvidiactl");
  CHECK(verdict.next == "ls -l /dev/nvidia0 names the group to join: sudo usermod -aG GROUP $USER");

  facts = Probe("two-gpus-two-nodes");
  facts.kernel_module.reset();
  CHECK(JudgeGpus(facts).why ==
        "2 NVIDIA GPUs are on PCI, but NVIDIA's kernel module is not loaded");
}

TEST_CASE("WSL has no PCI device and no module") {
  const HostFacts facts = Probe("wsl");
  CHECK(facts.wsl);
  CHECK(JudgeGpus(facts).state == GpuState::kUsable);
  CHECK(JudgeGpus(Probe("wsl-other-gpu")).state == GpuState::kNone);
}

TEST_CASE("a sandbox that shows the nodes and no PCI bus") {
  CHECK(JudgeGpus(Probe("no-pci-bus")).state == GpuState::kUsable);
}

TEST_CASE("limits of the own cgroup and of those above it") {
  HostFacts facts = Probe("container-cgroup2");
  CHECK(facts.cpus == 3);  // 2.5 of them
  CHECK(facts.memory_bytes == 4294967296ull);

  facts = Probe("container-cgroup1");   // its path is the host's: the container sees its own root
  CHECK_FALSE(facts.may_raise_limits);  // CAP_SYS_RESOURCE is not in CapBnd
  CHECK(facts.cpus == 3);
  CHECK(facts.memory_bytes == 2147483648ull);
}

TEST_CASE("an empty tree gives no facts and no crash") {
  char name[] = "/tmp/envkit-test-XXXXXX";
  const std::filesystem::path directory = mkdtemp(name);
  HostFacts facts = ProbeHost(directory);
  CHECK(facts.cpus == 1);
  CHECK(facts.numa_nodes == 1);
  CHECK_FALSE(facts.memory_bytes);
  CHECK(JudgeGpus(facts).state == GpuState::kNone);

  // Damage: what cannot be read is not there.
  std::filesystem::create_directories(directory / "proc/self");
  std::filesystem::create_directories(directory / "proc/driver/nvidia/version");
  std::filesystem::create_directories(directory / "sys/devices/system/cpu");
  std::filesystem::create_directories(directory / "dev/nvidia99999999999999999999");
  std::ofstream(directory / "proc/self/cgroup") << "0::/../../../../x\n\n::\nnonsense\n";
  std::ofstream(directory / "proc/meminfo") << "MemTotal: many kB\n";
  std::ofstream(directory / "sys/devices/system/cpu/online") << "0-4000000000,x,3-1,-,7\n";
  facts = ProbeHost(directory);
  CHECK(facts.cpus == 1);
  CHECK_FALSE(facts.memory_bytes);
  CHECK_FALSE(facts.kernel_module);
  CHECK(facts.device_nodes.empty());
  std::filesystem::remove_all(directory);
}

TEST_CASE("this machine, in milliseconds") {
  const auto start = std::chrono::steady_clock::now();
  const HostFacts facts = ProbeHost();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  CHECK(facts.cpus >= 1);
  CHECK(facts.cpus <= sysconf(_SC_NPROCESSORS_CONF));
  CHECK(facts.memory_bytes.value_or(0) > 1'000'000);
  CHECK_FALSE(facts.hostname.empty());
  CHECK_FALSE(facts.kernel.empty());
  MESSAGE("probing took ", seconds.count() * 1000, " ms, ", facts.cpus, " CPUs, ",
          facts.memory_bytes.value_or(0), " bytes");
  CHECK(seconds.count() < 0.5);
}
