// test_doctor_probe TREE: the tree's machine, with what this process's libnvidia-ml says. A program
// of its own, because the loader reads LD_LIBRARY_PATH at the start alone.
#include <cstdio>
#include <cstdlib>

#include "doctor/facts_json.h"
#include "doctor/probes/probes.h"
#include "doctor/report.h"

using namespace envkit::doctor;

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  Facts facts = ProbeMachine(argv[1]);
  std::vector<Probe> nvml;
  for (const Probe& probe : AllProbes())
    if (probe.section == "nvml") nvml.push_back(probe);
  facts.nvml = RunProbes("/", nvml).nvml;
  const auto matrix =
      envkit::LoadMatrix(std::filesystem::path(std::getenv("ENVKIT_SOURCE_DIR")) / "images");
  std::fputs(ReportText(facts, Diagnose(facts, matrix), {}).c_str(), stdout);
  std::puts("--");
  std::puts(Dump(SectionToJson("nvml", facts), -1).c_str());
}
