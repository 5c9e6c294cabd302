// The probes, one a section of Facts. Each runs in a child process of its own with a time limit,
// all at the same time: a driver that hangs or a library that crashes costs its own section and no
// more.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "doctor/facts.h"
#include "doctor/probes/root.h"

namespace envkit::doctor {

// Called with what is known so far; what was published last is kept when the probe ends early.
using Publish = std::function<void()>;

struct Probe {
  std::string section;
  std::chrono::milliseconds limit;
  std::function<void(const Root&, Facts&, const Publish&)> run;
};
const std::vector<Probe>& AllProbes();

// Runs PROBES over ROOT and waits for all of them, not longer than the longest limit. A captured
// tree's run in this process, one after the other.
Facts RunProbes(const std::filesystem::path& root, const std::vector<Probe>& probes);
Facts ProbeMachine(const std::filesystem::path& root = "/");

void ProbeSystem(const Root& root, SystemFacts& facts);
void ProbeStorage(const Root& root, StorageFacts& facts);
void ProbePci(const Root& root, PciFacts& facts);
void ProbeDriver(const Root& root, DriverFacts& facts);
void ProbeNvml(const Root& root, NvmlFacts& facts, const Publish& publish);
void ProbeKernelLog(const Root& root, KernelLogFacts& facts);
void ProbeEngines(const Root& root, EngineFacts& facts);
void ProbeNetwork(const Root& root, NetworkFacts& facts);
void ProbePython(const Root& root, PythonFacts& facts);

// The variables that matter here, of this process or of the captured tree's.
std::map<std::string, std::string> ProbeEnvironment(const Root& root);

// Pure readers of what comes from outside, each fuzzed.
std::vector<LogEvent> ParseKernelLog(std::string_view text);
CdiSpec ParseCdi(std::string_view text, const std::string& file);  // JSON or YAML; paths: all named
// The host paths that SPEC's text names, for CDI.
std::vector<std::string> CdiHostPaths(std::string_view text, const std::string& file);
void ParseDockerInfo(std::string_view json, Docker& docker);
void ParseDockerConfig(std::string_view json, Docker& docker);
std::vector<std::pair<std::string, std::string>> ParseLinkerCache(std::string_view bytes);

}  // namespace envkit::doctor
