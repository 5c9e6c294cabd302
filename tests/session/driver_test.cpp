#include "session/driver.h"

#include <doctest/doctest.h>

#include <cstdlib>

#include "session/environment.h"

using namespace envkit;

namespace {

Lock LockFor(const std::string& cuda) {
  Lock lock;
  lock.torch = "2.15.0";
  lock.cuda = cuda;
  lock.python = "3.13";
  return lock;
}

HostFacts Host(const std::string& driver) {
  HostFacts facts;
  facts.pci_gpus = {{"0000:01:00.0", 0}};
  if (!driver.empty()) facts.kernel_module = driver;
  return facts;
}

}  // namespace

TEST_CASE("a driver that is too old for the locked CUDA") {
  const auto refused = CheckDriver(LockFor("13.2"), Host("550.54.14"));
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == ExitCode::kMissing);
  CHECK(refused.error().Text() ==
        "error: the image for GPUs does not run here: CUDA 13.2 needs NVIDIA driver 580 or newer, "
        "and this is 550.54.14\n"
        "  Take torch = \"2.10\" with CUDA 12.8, the newest of the default index that driver "
        "550.54.14 runs,\n"
        "  or update the driver to 580 or newer.\n"
        "  A change of envkit.toml needs: envkit lock. On the CPU it runs with --variant cpu.\n");
}

TEST_CASE("drivers that fit, and what cannot be judged") {
  CHECK(CheckDriver(LockFor("13.2"), Host("580.95.05")));
  CHECK(CheckDriver(LockFor("12.8"), Host("550.54.14")));
  CHECK(CheckDriver(LockFor("13.2"), Host("")));
  CHECK(CheckDriver(LockFor(""), Host("550.54.14")));
  CHECK(CheckDriver(LockFor("13.2"), Host("strange-550")));
  CHECK_FALSE(MachineOf(Host("strange-550")).driver);
  CHECK(MachineOf(Host("550.54.14")).driver == "550.54.14");
}

TEST_CASE("the choice of the image's variant asks the same") {
  Project project;
  std::string why;
  HostFacts host;
  CHECK(ChooseVariant(project, LockFor("13.2"), host, why) == "cpu");
  CHECK(why == "no GPU found");
  host = Host("550.54.14");
  host.device_nodes = {0};
  host.control_node = host.uvm_node = true;
  const auto refused = ChooseVariant(project, LockFor("13.2"), host, why);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().what ==
        "the image for GPUs does not run here: CUDA 13.2 needs NVIDIA driver 580 or newer, and "
        "this is 550.54.14");
  CHECK(ChooseVariant(project, LockFor("12.8"), host, why) == "cuda");
  CHECK(why == "this machine has NVIDIA GPUs");
  project.environment.cuda = "cpu";
  CHECK(ChooseVariant(project, LockFor("13.2"), host, why) == "cpu");
}
