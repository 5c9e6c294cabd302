#include "doctor/probes/probes.h"

#include <doctest/doctest.h>
#include <signal.h>
#include <unistd.h>

#include <fstream>

#include "base/scratch.h"
#include "doctor/diagnose.h"
#include "doctor/report.h"
#include "doctor/tree.h"

using namespace envkit;
using namespace envkit::doctor;
using std::chrono::milliseconds;

TEST_CASE("probes run side by side; one that hangs, crashes or throws costs its own section") {
  const std::vector<Probe> probes = {
      {"nvml", milliseconds(300),
       [](const Root&, Facts& facts, const Publish& publish) {
         facts.nvml.step = "first";
         publish();
         for (;;) pause();
       }},
      {"pci", milliseconds(2000),
       [](const Root&, Facts&, const Publish&) { kill(getpid(), SIGILL); }},
      {"driver", milliseconds(2000),
       [](const Root&, Facts&, const Publish&) { throw std::runtime_error("no good"); }},
      {"system", milliseconds(2000),
       [](const Root&, Facts& facts, const Publish&) { facts.system.user = "ana"; }},
      {"storage", milliseconds(200), [](const Root&, Facts&, const Publish&) { sleep(10); }},
  };
  const auto begin = std::chrono::steady_clock::now();
  const Facts facts = RunProbes("/", probes);
  const auto took = std::chrono::steady_clock::now() - begin;
  CHECK(took < std::chrono::seconds(2));
  CHECK(facts.nvml.unknown == "no answer within 0.3 s");
  CHECK(facts.nvml.step == "first");
  CHECK(facts.pci.unknown == "the probe crashed: signal 4 (SIGILL)");
  CHECK(facts.driver.unknown == "the probe failed: no good");
  CHECK(facts.system.user == "ana");
  CHECK(facts.system.unknown == "");
  CHECK(facts.storage.unknown == "no answer within 0.2 s");
}

TEST_CASE("an empty tree: nothing is known, and nothing is made up") {
  const Scratch tree;
  const Facts facts = ProbeMachine(tree.path());
  const Diagnosis diagnosis = Diagnose(facts, OwnMatrix());
  CHECK(diagnosis.findings.empty());
  CHECK(diagnosis.Verdict() == "ok");
  CHECK(facts.pci.unknown == "there is no PCI bus to look at (/sys/bus/pci)");
}

TEST_CASE("links are followed below the root, whatever they point to") {
  const Scratch tree;
  std::filesystem::create_directories(tree / "a/b");
  std::ofstream(tree / "a/b/real") << "inside\n";
  std::filesystem::create_symlink("/a/b", tree / "absolute");
  std::filesystem::create_symlink("../../../../a/b/real", tree / "a/escaping");
  std::filesystem::create_symlink("loop", tree / "loop");
  const Root root(tree.path());
  CHECK(root.ReadLine("/absolute/real") == "inside");
  CHECK(root.ReadLine("/a/escaping") == "inside");
  CHECK(root.Read("/loop") == "");
  CHECK(root.LinkName("/absolute") == "b");
  CHECK(root.Line("/sys/x").unknown == "/sys is not mounted here");
  CHECK(root.Line("/a/none").Known());
  CHECK_FALSE(root.Line("/a/none"));
}

TEST_CASE("source validation on a bridge is found in its configuration") {
  const Scratch tree;
  const auto device = tree / "sys/bus/pci/devices/0000:00:01.0";
  std::filesystem::create_directories(device);
  std::ofstream(device / "class") << "0x060400\n";
  std::ofstream(device / "vendor") << "0x8086\n";
  std::string config(4096, '\0');
  const auto capability = [&](std::size_t at, int id, int next, int control) {
    config[at] = static_cast<char>(id);
    config[at + 2] = static_cast<char>(1 | (next & 0xf) << 4);
    config[at + 3] = static_cast<char>(next >> 4);
    config[at + 6] = static_cast<char>(control);
  };
  capability(0x100, 0x01, 0x148, 0);
  capability(0x148, 0x0d, 0, 0x1d);
  std::ofstream(device / "config") << config;
  PciFacts facts;
  ProbePci(Root(tree.path()), facts);
  CHECK(*facts.acs_bridges == std::vector<std::string>{"0000:00:01.0"});
  config[0x148 + 6] = 0;
  std::ofstream(device / "config") << config;
  PciFacts off;
  ProbePci(Root(tree.path()), off);
  CHECK(off.acs_bridges->empty());
  std::ofstream(device / "config") << config.substr(0, 64);
  PciFacts ordinary;
  ProbePci(Root(tree.path()), ordinary);
  CHECK(ordinary.acs_bridges.unknown == "only root may read the bridges' extended configuration");
}
