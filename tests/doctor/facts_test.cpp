#include "doctor/facts_json.h"

#include <doctest/doctest.h>

#include "doctor/diagnose.h"
#include "doctor/report.h"
#include "doctor/tree.h"

using namespace envkit;
using namespace envkit::doctor;

TEST_CASE("facts that are no facts are an error with a way on") {
  CHECK(FactsFromJson("").error().Text() ==
        "error: this is not a facts file: no JSON object\n"
        "  Make one on the machine in question:  envkit doctor --save FILE\n");
  CHECK(FactsFromJson("[1]").error().code == ExitCode::kUsage);
  CHECK(FactsFromJson("{\"schema\": 99}").error().Text() ==
        "error: facts of schema 99; this envkit reads schema 1\n"
        "  Read them with the envkit that wrote them, or save them anew.\n");
}

TEST_CASE("what a facts file lacks or has wrong is unknown, because") {
  const auto facts = FactsFromJson(
      R"({"schema": 1, "nvml": {"init": {"value": "zero"}, "gpus": [{"index": 7}, 3], "count": 5},
          "pci": {"gpus": [{"address": "0000:17:00.0", "numa_node": 9999999999}]}, "driver": []})");
  REQUIRE(facts);
  CHECK(facts->nvml.init.unknown == "the facts file has no such value here");
  CHECK(facts->nvml.gpus.size() == 1);
  CHECK(facts->system.unknown == "the facts file does not have it");
  CHECK(facts->driver.unknown == "the facts file does not have it");
  CHECK(facts->problems ==
        std::vector<std::string>{
            "facts.pci.gpus[0].numa_node is not an integer of that size",
            "facts.driver is not an object", "facts.nvml.init.value is not an integer",
            "facts.nvml.count is not an object", "facts.nvml.gpus[1] is not an object"});
  const Diagnosis diagnosis = Diagnose(*facts, OwnMatrix());
  bool unknown = false;
  for (const Unasked& one : diagnosis.unknown) {
    if (one.rule->id != "H02") continue;
    unknown = true;
    CHECK(one.because == "the facts file does not have it");
  }
  CHECK(unknown);
}

TEST_CASE("scrubbed facts name nobody") {
  Facts facts;
  facts.system.hostname = {std::string("gpu17.example.org"), "", ""};
  facts.system.user = "ana";
  facts.system.home = "/srv/people/ana";
  facts.system.groups = {"projectx"};
  facts.system.environment = {{"LD_LIBRARY_PATH", "/srv/people/ana/lib:/home/ben/lib:/opt/banana"},
                              {"DOCKER_HOST", "ssh://ana@10.1.2.3"},
                              {"MASTER_ADDR", "gpu18"},
                              {"NCCL_X", "API_KEY=abc123 on gpu17"}};
  facts.network.hostname_address = {std::string("10.20.30.40"), "", ""};
  facts.nvml.nvml_version = {std::string("13.595.45.04"), "", ""};
  facts.project.locked = {{"nvidia-cudnn-cu12", "9.10.2.21"}};
  const std::string text = Dump(Scrub(ToJson(facts)), 1);
  for (const char* secret : {"gpu17", "gpu18", "example.org", "\"ana\"", "/ana", "ana@", "ben",
                             "10.1.2.3", "10.20.30.40", "abc123", "projectx"}) {
    CAPTURE(secret);
    CHECK(text.find(secret) == std::string::npos);
  }
  CHECK(text.find("13.595.45.04") != std::string::npos);
  CHECK(text.find("9.10.2.21") != std::string::npos);
  CHECK(text.find("/opt/banana") != std::string::npos);
  CHECK(text.find("/home/user/lib:/home/user/lib") != std::string::npos);
}

TEST_CASE("bytes that are no text do not break the answer") {
  Facts facts;
  facts.system.kernel = {std::string("6.1\xff\x1b[31m"), "", ""};
  CHECK_NOTHROW(Dump(ToJson(facts), 1));
  CHECK(ReportText(facts, Diagnose(facts, OwnMatrix()), {}).find('\x1b') == std::string::npos);
}

TEST_CASE("the remedies as a script: asks first, leaves what only the user knows to be read") {
  Facts facts;
  facts.pci.gpus = {{"0000:17:00.0", "0x2330", "nvidia", 0, 16, 16}};
  facts.driver.module_version = {std::string("570.86.15"), "/sys/module/nvidia/version", ""};
  facts.driver.libraries = {
      {"libnvidia-ml.so.1", "/l/libnvidia-ml.so.580.95.05", "580.95.05", "", true},
      {"libcuda.so.1", "/l/libcuda.so.580.95.05", "580.95.05", "", true}};
  for (const char* node : {"/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"})
    facts.driver.nodes.push_back({node, true, ""});
  const std::string script = FixScript(Diagnose(facts, OwnMatrix()));
  CHECK(script.find("\n# FAIL H03: The NVIDIA kernel module and the driver library are of "
                    "different versions\n"
                    "#   The driver was updated, and the old module is still loaded.\n"
                    "step 'sudo reboot'\n"
                    "#   or, with nothing using the GPUs:\n"
                    "step 'sudo rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia && sudo modprobe "
                    "nvidia'\n") != std::string::npos);
  CHECK(script.starts_with("#!/bin/sh\n"));
}
